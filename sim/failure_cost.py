"""What runs that fail cost, in tokens and GPU-seconds, and what a warning could have saved of it.

GPU-seconds are those of batch size 1: a call's least time alone on the server, as in `sim.bounds.least_times_s`, summed
over LLM calls. Tools are not in it. In a batch calls share steps, so a busy server spends fewer seconds on each.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

from sim.bounds import least_times_s
from sim.detector import Achieved, RepetitionDetector, achieved, fails
from sim.latency import Profile
from sim.metrics import percent, ratio
from sim.record import RunResult
from sim.stats import ALL
from sim.workflow import Call, Workflow

#: How often an answer must come before the rule of step repetition warns.
TIMES = (2, 3, 4)
_STEP_REPETITION = "1.3"


@dataclass(frozen=True, slots=True)
class Cost:
    """Tokens of prompts, each counted whole whatever is cached of it; tokens of answers; batch-1 GPU-seconds."""

    prompt_tokens: int = 0
    output_tokens: int = 0
    gpu_s: float = 0.0

    @property
    def tokens(self) -> int:
        """Prompts and answers."""
        return self.prompt_tokens + self.output_tokens

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.prompt_tokens + other.prompt_tokens,
            self.output_tokens + other.output_tokens,
            self.gpu_s + other.gpu_s,
        )

    def shares(self, whole: Cost) -> dict[str, float | None]:
        """Which part of the whole it is."""
        return {name: ratio(getattr(self, name), getattr(whole, name)) for name in ("tokens", "output_tokens", "gpu_s")}

    def to_json(self) -> dict[str, float]:
        """All numbers."""
        return {"tokens": self.tokens, **dataclasses.asdict(self)}


@dataclass(frozen=True, slots=True)
class Case:
    """A run, the cost of all of it, and for each of `TIMES` at which the rule warns, of what comes after."""

    workflow: Workflow
    cost: Cost
    after: Mapping[int, Cost]


@dataclass(frozen=True, slots=True)
class Aborts:
    """What was aborted of so many sessions, and the cost of the calls that were never sent because of that.

    ``gpu_s`` is None where no profile says how long a call takes.
    """

    sessions: int
    who: Achieved
    prompt_tokens: int
    output_tokens: int
    gpu_s: float | None

    @property
    def aborted(self) -> int:
        """How many sessions."""
        return self.who.right + self.who.wrong + self.who.unknown

    def to_json(self) -> dict[str, Any]:
        """All numbers."""
        return {
            "sessions": self.sessions,
            "aborted": self.aborted,
            "would_have_failed": self.who.right,
            "would_have_succeeded": self.who.wrong,
            "outcome_unknown": self.who.unknown,
            "failing_not_aborted": self.who.missed,
            "precision": self.who.precision,
            "recall": self.who.recall,
            "not_sent": {
                "prompt_tokens": self.prompt_tokens,
                "output_tokens": self.output_tokens,
                "gpu_s_at_batch_1": self.gpu_s,
            },
        }

    def sentences(self) -> list[str]:
        """The same for people; nothing where nothing was aborted."""
        who = self.who
        if not self.aborted:
            return []
        unknown = f", {who.unknown} of unknown outcome" if who.unknown else ""
        seconds = "" if self.gpu_s is None else f", {self.gpu_s:,.3g} GPU-seconds at batch size 1"
        return [
            f"Aborted: {self.aborted} of {self.sessions} sessions; {who.right} would have failed, {who.wrong} would"
            f" have succeeded{unknown}; {who.missed} failing ones were not aborted"
            f" (precision {percent(who.precision)}, recall {percent(who.recall)}).",
            f"Never sent: {self.prompt_tokens:,} prompt tokens and {self.output_tokens:,} output tokens{seconds}.",
        ]


def summary_of_aborts(result: RunResult, workflows: Sequence[Workflow], profile: Profile | None = None) -> Aborts:
    """What became of sessions with the status "aborted". A call that was sent counts as sent, finished or not."""
    by_id = {workflow.id: workflow for workflow in workflows}
    ran = {row.session: by_id[row.workflow_id] for row in result.sessions}
    sent: defaultdict[int, set[str]] = defaultdict(set)
    for record in result.records:
        sent[record.session].add(record.call_id)
    aborted = [row.session for row in result.sessions if row.status == "aborted"]
    unspent = _sum(_unsent(ran[session], sent[session], profile) for session in aborted)
    gpu_s = None if profile is None else unspent.gpu_s
    return Aborts(len(ran), achieved(aborted, ran), unspent.prompt_tokens, unspent.output_tokens, gpu_s)


def failure_costs(workflows: Sequence[Workflow], profile: Profile) -> dict[str, Any]:
    """Per framework: what failing runs cost, by outcome and by failure mode, and what the rule could have saved."""
    cases = [_case(workflow, profile) for workflow in workflows]
    groups: defaultdict[str, list[Case]] = defaultdict(list)
    for case in cases:
        groups[case.workflow.framework].append(case)
    by_name = dict(sorted(groups.items()))
    whole = by_name if len(by_name) < 2 else {**by_name, ALL: cases}
    return {
        "outcomes": {name: _outcomes(group) for name, group in whole.items()},
        "modes": {name: _modes(group) for name, group in by_name.items()},
        "step_repetition": {
            name: {str(times): _repetition(group, times) for times in TIMES} for name, group in by_name.items()
        },
    }


def cost_of(calls: Iterable[Call], workflow: Workflow, seconds: Mapping[str, float]) -> Cost:
    """The cost of these of its calls; ``seconds``: node id -> its least time."""
    output = workflow.tape.output_tokens
    return _sum(Cost(call.num_prompt_tokens, output[call.id], seconds[call.id]) for call in calls)


def calls_after(
    workflow: Workflow, detector: RepetitionDetector, seconds: Mapping[str, float]
) -> tuple[Call, ...] | None:
    """The calls that begin after the first warning, under `async` alone with nodes of these seconds; None without."""
    begins, ends = workflow.timeline(seconds)
    position, watch = workflow.position, detector.watch(0, workflow)
    for call in sorted(workflow.calls, key=lambda call: (ends[call.id], position[call.id])):
        if watch.finished(call):
            return tuple(other for other in workflow.calls if begins[other.id] >= ends[call.id])
    return None


def _unsent(workflow: Workflow, sent: Collection[str], profile: Profile | None) -> Cost:
    seconds = least_times_s(workflow, profile) if profile else {call.id: 0.0 for call in workflow.calls}
    return cost_of((call for call in workflow.calls if call.id not in sent), workflow, seconds)


def _case(workflow: Workflow, profile: Profile) -> Case:
    seconds = least_times_s(workflow, profile)
    after = {times: calls_after(workflow, RepetitionDetector(times), seconds) for times in TIMES}
    costs = {times: cost_of(calls, workflow, seconds) for times, calls in after.items() if calls is not None}
    return Case(workflow, cost_of(workflow.calls, workflow, seconds), costs)


def _outcomes(cases: Sequence[Case]) -> dict[str, Any]:
    """Runs by their outcome; those without are counted apart, whatever annotators saw in them."""
    known = [case for case in cases if case.workflow.success is not None]
    failed = [case for case in known if not case.workflow.success]
    others = [case for case in cases if case.workflow.success is None]
    cost, whole = _cost(failed), _cost(known)
    return {
        "runs": len(cases),
        "outcome_known": len(known),
        "failed": len(failed),
        "failed_share": ratio(len(failed), len(known)),
        "cost_of_failed": cost.to_json() if known else None,
        "share_of_known": cost.shares(whole),
        "outcome_unknown_but_shows_a_mode": sum(bool(fails(case.workflow)) for case in others),
    }


def _modes(cases: Sequence[Case]) -> dict[str, Any]:
    """Mode -> the labelled runs that show it, the most GPU-seconds first."""
    labelled = [case for case in cases if case.workflow.labels]
    whole = _cost(labelled)
    modes = sorted({mode for case in labelled for mode, shown in case.workflow.labels.items() if shown})
    showing = {mode: [case for case in labelled if case.workflow.labels.get(mode)] for mode in modes}
    rows = {
        mode: {"runs": len(some), "cost": _cost(some).to_json(), "share_of_labelled": _cost(some).shares(whole)}
        for mode, some in sorted(showing.items(), key=lambda item: (-_cost(item[1]).gpu_s, item[0]))
    }
    return {"labelled": len(labelled), "cost_of_labelled": whole.to_json(), "modes": rows}


def _repetition(cases: Sequence[Case], times: int) -> dict[str, Any]:
    """What the rule sees, how often it is right, and which part of the failing runs comes after its warning."""
    workflows = {number: case.workflow for number, case in enumerate(cases)}
    warned = {number: case for number, case in enumerate(cases) if times in case.after}
    failing = [case for case in cases if fails(case.workflow)]
    seen = [case for case in failing if times in case.after]
    saved = _sum(case.after[times] for case in seen)
    return {
        "warned": len(warned),
        "runs": len(cases),
        "against_failure": achieved(warned, workflows).to_json(),
        "against_label_1.3": achieved(warned, workflows, lambda one: one.labels.get(_STEP_REPETITION)).to_json(),
        "after_warning": saved.to_json(),
        "share_of_failing_warned": saved.shares(_cost(seen)),
        "share_of_failing": saved.shares(_cost(failing)),
    }


def _cost(cases: Iterable[Case]) -> Cost:
    return _sum(case.cost for case in cases)


def _sum(costs: Iterable[Cost]) -> Cost:
    return reduce(Cost.__add__, costs, Cost())
