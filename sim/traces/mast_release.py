"""MAST's release on Hugging Face (MAD, MAST-Data): one JSON list of records, each with a run's log as text.

``MAD_full_dataset.json``: ``mas_name``, ``llm_name``, ``benchmark_name``, ``trace_id``, ``trace`` {key, index,
trajectory} and ``mast_annotation``, MAST's 14 codes with 0 or 1. ``MAD_human_labelled_dataset.json``: the same without
model and annotation, ``trace`` is the text itself, and ``annotations`` are {"failure mode", annotator_1, annotator_2,
annotator_3} with a mode's code and title, of one ``round``.

The release was not at hand: this follows a description of it, and was tried on records made of the original files of
its frameworks. Nothing is known of the logs of Magentic-One and OpenManus and of AG2's two forms but a description.

The text of a record is read by the loader that knows it; of AG2's, which no loader knows, JSON is made first. So
everything that a format is certain of, assumes and estimates holds here too, and the framework is the one that the
loader found; a note says where the record names another. A run is named after its record, by its place in the file:
framework, benchmark and number together are not unique. One whose text is that of an earlier record is skipped.

Labels: those of the annotation; of the human annotations a mode that more than half of the annotators saw. Each round
of these had its own list: codes that MAST has not are left out, and where the list had not 14 modes, a code may have
meant another mode (a note says both). Labels are of a whole record, so one with several runs keeps none. In the copy
of 1,242 records 510 have labels that were repeated for several sources; a note warns of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from sim.ag2_text import as_json
from sim.errors import TraceError, WorkflowError
from sim.failures import MODES, from_codes
from sim.traces import Document, LoadOptions, Skipped, identifier, load_document, segment_id
from sim.workflow import Workflow

#: Records of the copy whose labels were repeated for several sources.
_OLD_COPY = 1242
_HUMAN = "human-labelled"

_CODE = re.compile(r"\s*(\d+\.\d+)\b")
_VOTES: Mapping[str, bool] = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}

_UNRELIABLE = "MAST: this copy of the release repeats labels for several sources; get a later one"
_NO_LABELS = "MAST: a record's annotation is missing or cannot be read, so that its run has no labels"
_SEVERAL = "MAST: a record with several runs was annotated as a whole, so that they have no labels"
_DROPPED = "MAST: annotations of modes that are none of the 14 are left out"
_OTHER_LIST = "MAST: annotated with a list of other than 14 modes, whose codes may mean other modes"
_NO_VOTE = "MAST: votes of annotators that are missing or cannot be read are left out"

Items = list[Workflow | Skipped]


class Labels(NamedTuple):
    """What the annotation of a record says, and what is to be said of it."""

    labels: Mapping[str, bool] = {}
    notes: tuple[str, ...] = ()


def looks_like(document: Document) -> bool:
    """A list with a record that names its system and has a trace."""
    data = document.data
    return isinstance(data, list) and any(
        isinstance(item, dict) and "mas_name" in item and "trace" in item for item in data
    )


def load(document: Document, options: LoadOptions) -> Iterator[Workflow | Skipped]:
    """The workflows of every record, or the reason why one gives none."""
    notes = (_UNRELIABLE,) if len(document.data) == _OLD_COPY else ()
    seen: dict[str, int] = {}
    for number, record in enumerate(document.data):
        where = f"{document.where}, record {number}"
        try:
            text = _text(record)
            first = seen.setdefault(segment_id(text), number)
            if first != number:
                raise TraceError(f"its trajectory is the same, byte for byte, as that of record {first}")
            name = f"{PurePosixPath(document.name).name}/record-{number}"
            yield from _named(_read(where, name, text, options), record, number, notes)
        except (TraceError, WorkflowError) as error:
            yield Skipped(where, str(error))


def _text(record: Any) -> str:
    trace = record.get("trace") if isinstance(record, dict) else None
    text = trace.get("trajectory") if isinstance(trace, dict) else trace
    if not isinstance(text, str) or not text.strip():
        raise TraceError('no trajectory; a record needs a "trace" with a text, or with a "trajectory" that is one')
    return text


def _read(where: str, name: str, text: str, options: LoadOptions) -> Items:
    """What the loader that knows the text makes of it."""
    part = Document(f"{where}: {name}", as_json(text) or text)
    if looks_like(part):
        raise TraceError("its trajectory is a release itself; give that as a file of its own")
    items = list(load_document(part, options))
    if not items:
        raise TraceError("its trajectory describes runs and records none; leave the record out")
    return [_renamed(item, part.where, where) if isinstance(item, Skipped) else item for item in items]


def _renamed(skipped: Skipped, old: str, new: str) -> Skipped:
    return replace(skipped, where=new + skipped.where.removeprefix(old))


def _named(items: Items, record: dict[str, Any], number: int, notes: tuple[str, ...]) -> Items:
    """The same as runs of this record, with its labels."""
    several = sum(isinstance(item, Workflow) for item in items) > 1
    labels = Labels(notes=(_SEVERAL,)) if several else _labels(record)
    name = _name(record, number)
    named: Items = []
    run = 0
    for item in items:
        if isinstance(item, Workflow):
            run += 1
            own = f"{name}/{run}" if several else name
            said = (*item.notes, *_another(record, item), *labels.notes, *notes)
            item = replace(item, id=own, labels=labels.labels or item.labels, notes=said)
        named.append(item)
    return named


def _name(record: dict[str, Any], number: int) -> str:
    """``mast/system/benchmark/model/trace-number``; the records with human labels name no model."""
    model = record.get("llm_name") or ("unknown" if isinstance(record["trace"], dict) else _HUMAN)
    trace = record.get("trace_id", "")
    trace = str(trace) if isinstance(trace, int | float) else trace or "unknown"
    names = {"benchmark_name": record.get("benchmark_name") or "unknown", "llm_name": model, "trace_id": trace}
    words = [_system(record), *(_word(name, what) for what, name in names.items())]
    return f"mast/{'/'.join(words)}-{number}"


def _word(value: Any, what: str) -> str:
    """A name without spaces."""
    return "-".join(identifier(value, f'"{what}"').split()) or "unknown"


def _system(record: dict[str, Any]) -> str:
    """The name of the system; of the two that one has, the longer."""
    name = _word(record.get("mas_name") or "unknown", "mas_name")
    return "MagenticOne" if name == "Magentic" else name


def _another(record: dict[str, Any], workflow: Workflow) -> tuple[str, ...]:
    """A note where the record says that its log is of another system than its loader does."""
    said, found = _system(record), workflow.framework
    same = said == "unknown" or re.sub(r"\W", "", said).lower() == re.sub(r"\W", "", found).lower()
    return () if same else (f"MAST: the record names {said}, its log is one of {found}",)


def _labels(record: dict[str, Any]) -> Labels:
    annotation = record.get("mast_annotation")
    if not isinstance(annotation, dict) or not annotation:
        return _majority(record.get("annotations"))
    try:
        return Labels(from_codes(annotation))
    except TraceError:
        return Labels(notes=(_NO_LABELS,))


def _majority(annotations: Any) -> Labels:
    """The modes that more than half of the annotators saw."""
    modes = [item for item in annotations if isinstance(item, dict)] if isinstance(annotations, list) else []
    found: dict[str, bool] = {}
    dropped = unread = False
    for mode in modes:
        title = mode.get("failure mode")
        code = _CODE.match(title) if isinstance(title, str) else None
        if code is None or code[1] not in MODES:
            dropped = True
            continue
        votes = [_vote(value) for key, value in mode.items() if key.startswith("annotator")]
        cast = [vote for vote in votes if vote is not None]
        unread |= not votes or len(cast) < len(votes)
        if cast:
            found[code[1]] = found.get(code[1], False) or 2 * sum(cast) > len(cast)
    if not found:
        return Labels(notes=(_NO_LABELS,))
    said = ((_OTHER_LIST, len(modes) != len(MODES)), (_DROPPED, dropped), (_NO_VOTE, unread))
    return Labels(found, tuple(note for note, holds in said if holds))


def _vote(value: Any) -> bool | None:
    """What an annotator said; None where it cannot be read."""
    if isinstance(value, int | float):
        return bool(value) if value in (0, 1) else None
    return _VOTES.get(value.strip().lower()) if isinstance(value, str) else None
