"""A study's results as one HTML page that needs nothing else: no network, no script, no date."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from sim.errors import StudyError, WorkspanError
from sim.gantt import STYLES, seconds_text
from sim.latency import Profile
from sim.results import write_whole
from sim.study.answer import answer, at_place, question
from sim.study.focus import Where, example, focus, oracles, profiles_of, where_time_went
from sim.study.glossary import ACCURACIES, DEFINITIONS
from sim.study.panels import SERVER, Row, is_only_noise, policy_rows, rows_of
from sim.study.pictures import (
    Picture,
    example_picture,
    frameworks_picture,
    parts_in_words,
    speedup_picture,
    where_picture,
)
from sim.study.report import left_out, marks, most_telling, noise_floor, tables
from sim.study.results import Results

_TEMPLATE = Path(__file__).with_name("page.html.j2")
#: Letters of the study's own text: one with a very long grid is told in part.
_MOST_TEXT = 20_000
#: Values of a setting that are listed.
_MOST_VALUES = 8
_MINUS = "\N{MINUS SIGN}"
#: Words under which DEFINITIONS have the columns of the table of results.
_HEADS = ("load", "policy", "speed-up", "p", "verdict", "ceiling", "no gain")


def write_page(results: Results, path: Path) -> None:
    """The page as a file. Raises StudyError where it cannot be written."""
    try:
        write_whole(path, page(results))
    except OSError as error:
        raise StudyError(f"{path}: cannot be written ({error.strerror}); name another file") from error


def page(results: Results) -> str:
    """The page's HTML; the same results give the same text."""
    used: dict[str, None] = {}

    def term(name: str, text: str | None = None) -> Markup:
        """A word with a link to its definition, which the page then has."""
        assert name in DEFINITIONS, name
        used[name] = None
        return Markup('<a class="term" href="#def-{}">{}</a>').format(_anchor(name), text or name)

    surroundings = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = surroundings.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    told, every = results.manifest, rows_of(results.comparisons)
    order = list(told["policies"]).index
    rows = sorted(policy_rows(every), key=lambda row: (row["point"], order(row["policy"])))
    chosen = focus(rows, told)
    return template.render(
        term=term,
        definitions=lambda: [(_anchor(name), name, DEFINITIONS[name]) for name in sorted(used, key=str.lower)],
        told=told,
        name=told["study"].get("name", "study"),
        question=question(told),
        answer=answer(rows, told),
        settings=_settings(rows, told),
        study=_shortened(yaml.safe_dump(told["study"], sort_keys=False, allow_unicode=True)),
        oracles=oracles(told),
        provenance=_provenance(told),
        accuracies=_accuracies(results),
        left_out=left_out(results, rows),
        **(_about(results, rows, every, chosen) if chosen else {"chosen": None}),
    )


def _about(results: Results, rows: Sequence[Row], every: Sequence[Row], chosen: Row) -> dict[str, Any]:
    """What there is to say of comparisons, most of it of the chosen one."""
    shown = most_telling(rows)
    return {
        "chosen": chosen,
        "place": at_place(chosen, rows),
        "noise": is_only_noise(chosen),
        "speedup": speedup_picture(results, rows, chosen),
        "heads": _HEADS,
        "tables": list(tables(rows, shown, results.manifest["baseline"])),
        "marks": [*marks(rows, shown), *noise_floor(every)],
        "bounds": _bounds(every, rows, chosen),
        "frameworks": frameworks_picture(results, chosen),
        "where": _where(results, chosen),
        "example": _example(results, chosen),
    }


def _bounds(every: Sequence[Row], rows: Sequence[Row], chosen: Row) -> dict[str, Any]:
    """How much could be gained at all, and how much of that is."""
    ceilings = [row["ceiling"] for row in rows if row["ceiling"] is not None]
    mine = [row for row in every if (row["point"], row["policy"], row["kind"]) == _key(chosen)]
    gained, most = 1 - 1 / chosen["speedup"], 1 - 1 / (chosen["ceiling"] or 1.0)
    return {
        "ends": (min(ceilings), max(ceilings)) if ceilings else None,
        "share": gained / most if most > 0 else None,
        "rows": mine,
    }


def _key(row: Row) -> tuple[int, str, str]:
    return row["point"], row["policy"], row["kind"]


def _where(results: Results, chosen: Row) -> dict[str, Any] | str:
    """Where the sessions' time went, or why that cannot be said."""
    try:
        found = where_time_went(results, chosen)
    except StudyError:
        return "The folder does not say where time went; it was written by an older workspan. Run the study again."
    if not found:
        return "No session has finished under every policy."
    columns = [name for name in STYLES if any(getattr(parts, name) for parts in found.parts.values())]
    return {
        "picture": where_picture(found),
        "columns": [(name, STYLES[name].label) for name in columns],
        "parts": found.parts,
        "preemptions": found.preemptions,
        "sessions": found.sessions,
        "saved": _saved(found, results.manifest["baseline"], chosen["policy"]),
    }


def _saved(where: Where, baseline: str, policy: str) -> str:
    """In a sentence."""
    base, other = where.parts[baseline], where.parts[policy]
    parts = {STYLES[name].label: seconds - getattr(other, name) for name, seconds in base._asdict().items()}
    total = sum(parts.values())
    large = {name: seconds for name, seconds in parts.items() if abs(seconds) >= 0.001 * sum(base)}
    told = ", ".join(f"{name} {_signed(-seconds)} s" for name, seconds in large.items())
    verb = "saves" if total >= 0 else "loses"
    changes = f" The changes: {told}." if told else ""
    whole = f"the {seconds_text(sum(base))} s that a session takes under {baseline}"
    return f"{policy} {verb} {seconds_text(abs(total))} s of {whole}.{changes}"


def _signed(seconds: float) -> str:
    return f"{'+' if seconds > 0 else _MINUS}{seconds_text(abs(seconds))}"


def _example(results: Results, chosen: Row) -> dict[str, Any] | str:
    """One workflow under two policies, or why there is none to show."""
    try:
        found = example(results, chosen)
    except WorkspanError as error:
        return f"No workflow is shown: {error}."
    runs = list(found.runs.values())
    workflow = runs[0].workflow
    picture: Picture = example_picture(found)
    return {
        "picture": picture,
        "reason": found.reason,
        "workflow": workflow,
        "calls": len(workflow.calls),
        "tools": len(workflow.tools),
        "gain": runs[0].session.latency_s / runs[1].session.latency_s,
        "runs": [(name, parts_in_words(ran.parts), ran.num_preemptions) for name, ran in found.runs.items()],
    }


def _accuracies(results: Results) -> list[dict[str, Any]]:
    """What each profile was held against, as far as it says so and is as it was."""
    known = {digest for digests in results.manifest.get("profiles", {}).values() for digest in digests}
    try:
        profiles = [profile for profile in profiles_of(results) if profile.digest in known]
    except WorkspanError:
        return []
    return [{"profile": profile, "rows": list(_errors(profile))} for profile in profiles]


def _errors(profile: Profile) -> Iterable[tuple[str, str, str, str]]:
    """Word, its text, the error where it was fitted, and where it was not."""
    names = dict.fromkeys(name.removeprefix("held_out_") for name in profile.accuracy)
    for name in names:
        plain = name.removesuffix("_pct")
        word = ACCURACIES.get(plain, "of its own")
        fitted, held_out = (profile.accuracy.get(key) for key in (name, f"held_out_{name}"))
        yield word, word if plain in ACCURACIES else plain, _percent(fitted), _percent(held_out)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} %".replace("-", _MINUS)


def _settings(rows: Sequence[Row], told: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was set, and what varied."""
    study = told["study"]
    names = [*SERVER, "load", "tool_time", "information_error"]
    found = [(name, _values(name, rows)) for name in names if any(row[name] is not None for row in rows)]
    seeds = f"{told.get('seeds', '')}" + (f", at most {told['stop']['max_runs']}" if told["stop"] else "")
    found += [("seeds", seeds), ("points", f"{told.get('points', '')}")]
    for name in ("window", "slo"):
        found += [(f"{name}: {key}", f"{value:g}") for key, value in study.get(name, {}).items() if value is not None]
    return found


def _values(name: str, rows: Sequence[Row]) -> str:
    values = list(dict.fromkeys(row[name] for row in rows))
    shown = "; ".join(map(_plain, values[:_MOST_VALUES]))
    return shown + (f"; and {len(values) - _MOST_VALUES:,} more" if len(values) > _MOST_VALUES else "")


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return "none" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _provenance(told: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the results depend on."""
    traces = told["traces"]
    frameworks = ", ".join(f"{number:,} {name}" for name, number in traces["frameworks"].items())
    found = [
        ("workspan", f"{told.get('workspan')} (sources of the engine {told.get('engine')})"),
        ("Python", str(told.get("python"))),
        ("workflows", f"{traces['workflows']:,} ({frameworks}); digest {traces.get('digest')}"),
        ("tokens counted by", ", ".join(traces.get("tokenizers", ()))),
    ]
    found += [(f"profile {name}", ", ".join(digests)) for name, digests in told.get("profiles", {}).items()]
    return found + [(f"rule {name}", digest) for name, digest in told.get("rules_of_your_own", {}).items()]


def _shortened(text: str) -> str:
    return text if len(text) <= _MOST_TEXT else f"{text[:_MOST_TEXT]}\n.. manifest.json has the rest"


def _anchor(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name.lower())
