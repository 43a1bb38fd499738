"""HyperAgent on SWE-bench: logs whose records begin with ``HyperAgent_<instance> - INFO - ``, and what describes them.

Four kinds of documents. Two hold runs: the ``.log`` itself, and MASFT's JSON, whose ``trajectory`` is the log as a list
of lines and which also has the issue (``problem_statement``) and labels (``note``). Two only describe runs, and give no
workflow: JSON lines of such records without their trajectory (``trajectory_equals_raw_log``), and MASFT's
``annotations.csv``, whose ``link`` leads to /HyperAgent/. AG2's table of the same form says what AG2's JSON says as
well; it is known here so that it isn't reported, and not used.

A log holds several runs. Each begins with lines "Initialized HyperAgent instance"; after them come k lines "Initialized
tools", and then every record of the run is written k times in a row. One of each k is kept. A run without records and
one that is the same as an earlier one are skipped. Labels are of a whole log, so a log of several runs keeps none.

Certain: the planner's and the interns' answers, each a call, and their order. A planner's record hands the work to one
intern (Navigator, Editor, Executor), whose inner loop and return to the planner come before the next plan.

Assumed, after the framework: the Navigator's and the Executor's return is a call of a summariser, a smaller model; the
Editor's is its last inner answer and no call. A tool ran where an inner answer with code (a block, and a tool's
``_run(`` unless it is the Executor's) is followed by another one. The planner sees the issue, its own answers and the
returns; an intern sees the same from outside and then its own loop, which begins anew with each delegation; a
summariser sees the delegation and the loop.

Edges: a chain, as the log proves that everything ran one after another. A tool's edge is visible, as the code it runs
stands in the answer before it; the others are assumed, as no prompt was recorded.

Not recorded: the agents' system messages, outputs and times of tools, and without a JSON record the issue. Their
lengths are estimates. Of the summarisers' instructions and of what an intern was told after an answer without code
nothing is known, and nothing is added.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from sim.chat import Message, Recorder, prompt, unknown_system
from sim.errors import TraceError
from sim.masft import labels
from sim.tokens import Tokenizer
from sim.traces import About, Document, LoadOptions, Skipped, identifier
from sim.workflow import UNKNOWN, Segment, Workflow

FRAMEWORK = "HyperAgent"

_PLANNER = "Planner"
_INTERNS = ("Navigator", "Editor", "Executor")

# A quarter of the characters of the planner's (2,988) and the navigator's (7,412) system message in the framework's
# repository, which may be of another version. The other interns' are assumed to be as long as the navigator's.
_SYSTEM_TOKENS = {_PLANNER: 747, **dict.fromkeys(_INTERNS, 1853)}
# A guess. Half of the tools open files: where they name the lines, the median is some 100 lines, of 9 tokens each as
# the code in the agents' messages has. The others edit, list or run, and are taken to say little: 450 on average.
_TOOL_OUTPUT_TOKENS = 450
# The median of 117 known issues is 291 tokens; and 4 for the message around them.
_ISSUE_TOKENS = 295

_ESTIMATED = "HyperAgent: system prompts and tool outputs are not recorded, their lengths are estimates"
_NO_ISSUE = "HyperAgent: the issue's text is not recorded, its length is an estimate"
_LABELLED_WHOLE = "HyperAgent: the log was labelled as a whole and holds several runs, none of which gets its labels"
_CUT_OFF = "HyperAgent: the run was cut off or failed, its last record is not the planner's"

_RECORD = re.compile(r"HyperAgent_(\S{1,100}) - [A-Z]{1,20} - (.*)", re.DOTALL)
_STARTED = "Initialized HyperAgent instance"
_TOOLS = "Initialized tools"
_DESCRIBES = '"trajectory_equals_raw_log"'
_TABLE = '"","instance_id","link",'
#: Characters at the beginning of a table within which its first link stands.
_TABLE_START = 8192

Kind = Literal["start", "tools", "plan", "inner", "return", "other"]
_EVENTS: Mapping[str, tuple[Kind, str]] = {
    "Planner's Response": ("plan", _PLANNER),
    **{f"Inner-{intern}-Assistant's Response": ("inner", intern) for intern in _INTERNS},
    **{f"{intern}->Planner": ("return", intern) for intern in _INTERNS},
}


class _Record(NamedTuple):
    instance: str
    kind: Kind
    agent: str
    text: str


class _Run(NamedTuple):
    """``copies``: how often each record is written. ``once``: each of them once."""

    number: int
    copies: int
    records: list[_Record]
    once: tuple[_Record, ...]


def looks_like(document: Document) -> bool:
    """A log, its JSON, or a description of such."""
    return bool(_RECORD.match(document.text.lstrip("\n")[:200])) or _has_trajectory(document) or _describes(document)


def about(document: Document) -> Iterator[About]:
    """Issue and labels of the runs that the document describes, by instance."""
    return (item for item in _descriptions(document) if isinstance(item, About))


def load(document: Document, options: LoadOptions) -> Iterator[Workflow | Skipped]:
    """The workflows of a log, one per run; nothing for a document that only describes runs."""
    told: dict[tuple[str, str], About] = {}
    for item in _descriptions(document):
        if isinstance(item, Skipped):
            yield item
        else:
            told[item.framework, item.run] = item
    if _describes(document):
        return
    runs = list(_runs(_records(_lines(document))))
    num_runs = len({run.once for run in runs if run.once})
    if not num_runs:
        raise TraceError("no run in this log has any record after it was initialized; leave the file out")
    known = {**told, **options.about}
    seen: dict[tuple[_Record, ...], int] = {}
    for run in runs:
        try:
            _check(run)
            if (first := seen.setdefault(run.once, run.number)) != run.number:
                raise TraceError(f"the same, record for record, as run {first}")
            instance = identifier(run.once[0].instance, "the instance")
            description = known.get((FRAMEWORK, instance), About(FRAMEWORK, instance))
            yield _workflow(run, description, num_runs, options.tokenizer)
        except TraceError as error:
            yield Skipped(f"{document.where}, run {run.number}", str(error))


def _has_trajectory(document: Document) -> bool:
    """MASFT's JSON of a run: the trajectory is a log."""
    data = document.data
    if not isinstance(data, dict) or "instance_id" not in data or not isinstance(data.get("trajectory"), list):
        return False
    first = next((line for line in data["trajectory"] if line), None)
    return isinstance(first, str) and bool(_RECORD.match(first[:200]))


def _describes(document: Document) -> bool:
    text = document.text
    return _is_table(text) or (text.startswith("{") and _DESCRIBES in text.partition("\n")[0])


def _is_table(text: str) -> bool:
    return text.startswith(_TABLE) and any(f"/{name}/" in text[:_TABLE_START] for name in (FRAMEWORK, "AG2"))


def _descriptions(document: Document) -> Iterator[About | Skipped]:
    """What the document tells of runs, and what of it cannot be read."""
    for where, data in _described(document):
        try:
            yield _about(data)
        except TraceError as error:
            yield Skipped(where, str(error))


def _described(document: Document) -> Iterator[tuple[str, Any]]:
    """Every record of a run in the form of MASFT's JSON, None where it is no JSON, and where it stands."""
    if _has_trajectory(document):
        yield document.where, document.data
    elif _is_table(document.text):
        yield from ((f"{document.where}, line {number}", data) for number, data in _rows(document.text))
    elif _describes(document):
        for number, line in enumerate(document.lines, start=1):
            if line.strip():
                yield f"{document.where}, line {number}", Document("", line).data


def _rows(text: str) -> Iterator[tuple[int, Any]]:
    """The rows of a table: number, instance, link, remark, and for every option "yes" or "no"; AG2's are left out."""
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in rows:
            _, instance, link, remark, *options = rows.fieldnames or ()
            if f"/{FRAMEWORK}/" in str(row[link]):
                note = {"text": row[remark], "options": {option: row[option] for option in options}}
                yield rows.line_num, {"instance_id": row[instance], "note": note}
            elif "/AG2/" not in str(row[link]):
                yield rows.line_num, None
    except (csv.Error, ValueError) as error:
        raise TraceError(f"the table cannot be read after line {rows.line_num}; copy it again") from error


def _about(data: Any) -> About:
    if not isinstance(data, dict):
        raise TraceError(f'no record of a run of {FRAMEWORK}; give it an "instance_id", or leave it out')
    statement = data.get("problem_statement")
    lines = statement if isinstance(statement, list) else [statement]
    problem = "\n".join(line for line in lines if isinstance(line, str))
    return About(FRAMEWORK, identifier(data.get("instance_id"), "the instance"), problem, labels(data))


def _lines(document: Document) -> list[str]:
    """The log's lines; the feed that ends the last one begins no other."""
    lines = document.data["trajectory"] if _has_trajectory(document) else document.lines
    if not all(isinstance(line, str) for line in lines):
        raise TraceError("the trajectory must be the log's lines; it has something else among them")
    return lines[:-1] if not lines[-1] else lines


def _records(lines: list[str]) -> list[_Record]:
    found: list[tuple[str, list[str]]] = []
    for line in lines:
        match = _RECORD.match(line) if line.startswith("HyperAgent_") else None
        if match:
            found.append((match[1], [match[2]]))
        elif found:
            found[-1][1].append(line)
    return [_record(instance, "\n".join(texts)) for instance, texts in found]


def _record(instance: str, text: str) -> _Record:
    if text.startswith(_STARTED):
        return _Record(instance, "start", "", "")
    if text.startswith(_TOOLS):
        return _Record(instance, "tools", "", "")
    label, _, rest = text.partition(":")
    kind, agent = _EVENTS.get(label, ("other", ""))
    return _Record(instance, kind, agent, rest.removeprefix(" "))


def _runs(records_of_log: list[_Record]) -> Iterator[_Run]:
    """A run begins with a block of start records."""
    kinds = [record.kind for record in records_of_log]
    starts = [i for i, kind in enumerate(kinds) if i == 0 or (kind == "start" and kinds[i - 1] != "start")]
    for number, (start, end) in enumerate(zip(starts, [*starts[1:], len(records_of_log)], strict=True), start=1):
        first = next((i for i in range(start, end) if kinds[i] != "start"), end)
        after = next((i for i in range(first, end) if kinds[i] != "tools"), end)
        copies, records = after - first, records_of_log[after:end]
        yield _Run(number, copies, records, tuple(records[:: copies or 1]))


def _check(run: _Run) -> None:
    """Raises TraceError where it cannot be told what the run did."""
    if not run.records:
        raise TraceError("no record after the run was initialized; nothing to read in it")
    if not run.copies:
        raise TraceError(f'no line "{_TOOLS}" tells how often its records are repeated; copy the log again')
    for index, record in enumerate(run.records):
        once = run.once[index // run.copies]
        # Where a log is cut off, the last record is the beginning of what it repeats.
        is_cut = index + 1 == len(run.records) and once.text.startswith(record.text)
        if record != once and not (is_cut and record[:-1] == once[:-1]):
            raise TraceError(f"record {index + 1} is not written {run.copies} times as the others; copy the log again")
    _check_order(run.once)


def _check_order(events: Sequence[_Record]) -> None:
    """The planner hands the work to one intern, whose inner answers and return come before the next plan."""
    before = _Record(events[0].instance, "return", "", "")
    for number, event in enumerate(events, start=1):
        if event.kind == "plan":
            follows = before.kind == "return"
        else:
            same = before.kind == "inner" and before.agent == event.agent
            follows = event.kind in ("inner", "return") and (before.kind == "plan" or same)
        if not follows or event.instance != before.instance:
            raise TraceError(f"record {number} (each counted once) cannot follow the one before it; copy the log again")
        before = event


def _workflow(run: _Run, description: About, num_runs: int, tokenizer: Tokenizer) -> Workflow:
    workflow_id = f"hyperagent/{description.run}/{run.number}"
    notes = {
        _ESTIMATED: True,
        _NO_ISSUE: not description.problem,
        _CUT_OFF: run.once[-1].kind != "plan",
        _LABELLED_WHOLE: bool(description.labels) and num_runs > 1,
    }
    recorder = Recorder(tokenizer, workflow_id)
    _Talk(recorder, description).play(run.once)
    return recorder.workflow(
        workflow_id,
        FRAMEWORK,
        description.run,
        labels=description.labels if num_runs == 1 else {},
        notes=tuple(note for note, applies in notes.items() if applies),
    )


class _Talk:
    """The conversations of a run as they grow, as segments: the planner's, what interns see of it, the inner loop.

    ``delegation`` is the planner's last message; the loop is there as the intern and as its summariser see it.
    """

    def __init__(self, recorder: Recorder, description: About) -> None:
        self.recorder = recorder
        unknown = Segment(f"{UNKNOWN}issue:{FRAMEWORK}:{description.run}", _ISSUE_TOKENS)
        issue = self._message("user", description.problem) if description.problem else (unknown,)
        self.planner = [*issue]
        self.outside = [*issue]
        self.delegation: tuple[Segment, ...] = ()
        self.loop: list[Segment] = []
        self.summary: list[Segment] = []

    def play(self, events: Sequence[_Record]) -> None:
        """Record every call and tool."""
        for event, after in zip(events, [*events[1:], None], strict=True):
            if event.kind == "plan":
                self._plan(event.text)
            elif event.kind == "inner":
                self._inner(event.agent, event.text, is_last=after is None or after.kind != "inner")
            else:
                self._return(event.agent, event.text)

    def _plan(self, text: str) -> None:
        self._call(_PLANNER, self.planner, text)
        self.delegation = self._message("user", text, _PLANNER)
        self.planner += self._message("assistant", text)
        self.outside += self.delegation
        self.loop, self.summary = [], []

    def _inner(self, intern: str, text: str, is_last: bool) -> None:
        self._call(intern, [*self.outside, *self.loop], text)
        self.loop += self._message("assistant", text)
        self.summary += self._message("user", text, intern)
        if not is_last and _has_code(intern, text):
            self.recorder.chain(self.recorder.tool("code"), "visible")
            output = self.recorder.unknown(_TOOL_OUTPUT_TOKENS)
            self.loop.append(output)
            self.summary.append(output)

    def _return(self, intern: str, text: str) -> None:
        if intern != "Editor":
            self._call(f"{intern}-Summarizer", [*self.delegation, *self.summary], text)
        message = self._message("user", text, intern)
        self.planner += message
        self.outside += message

    def _call(self, agent: str, segments: list[Segment], text: str) -> None:
        system = unknown_system(FRAMEWORK, agent, _SYSTEM_TOKENS.get(agent, 0))
        whole = (*system, *segments, *prompt((), self.recorder.tokenizer))
        self.recorder.chain(self.recorder.call(agent, whole, text), "assumed")

    def _message(self, role: str, text: str, speaker: str = "") -> tuple[Segment, ...]:
        """A message in the middle of a prompt: without the header that ends the prompt."""
        return prompt((Message(role, text, speaker),), self.recorder.tokenizer)[:-1]


def _has_code(intern: str, text: str) -> bool:
    return "```" in text and (intern == "Executor" or "_run(" in text)
