"""How long a study will take, without running it: what a few of its workflows cost on this machine."""

from __future__ import annotations

import time

from sim.load import ConcurrentSessions
from sim.simulate import simulate
from sim.study.plan import Plan

#: Enough calls to time, some tenths of a second.
_SAMPLE_CALLS = 2_000
#: Rows, files and waiting for each other, beside the simulation itself (docs/scaling.md).
_OVERHEAD = 1.25


def seconds_per_cell(plan: Plan) -> float:
    """CPU seconds of a cell on this machine: those of some workflows on the first server, by their calls."""
    workflows, calls = [], 0
    for workflow in plan.corpus.workflows[:: max(1, len(plan.corpus.workflows) // 200)]:
        workflows.append(workflow)
        calls += len(workflow.calls)
        if calls >= _SAMPLE_CALLS:
            break
    point = plan.points[0]
    began = time.process_time()
    simulate(workflows, point.policies[plan.baseline], point.fleet, ConcurrentSessions(min(16, len(workflows))), 0)
    spent_s = time.process_time() - began
    return _OVERHEAD * spent_s / calls * plan.corpus.calls * plan.sessions
