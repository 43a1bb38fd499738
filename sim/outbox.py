"""Where a call gets its priority and its replica."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any

from sim.errors import PolicyError
from sim.policies import Policy, str_of
from sim.policies.round_robin import RoundRobin
from sim.rules import Order, Replica, Router, Submission, View
from sim.session import Session, Start, blind
from sim.workflow import Call

#: Behind every key that a rule could give.
DEMOTED = 10**15


class Outbox:
    """Asks the policy's order and router about each call that is sent, and knows what is under way where.

    ``replicas``: agent -> the replicas that can take its calls. ``memory``: what rules remember, by their names.
    """

    def __init__(self, policy: Policy, replicas: Callable[[str], Sequence[int]], memory: Mapping[str, Any]) -> None:
        self._policy, self._replicas, self._memory = policy, replicas, memory
        self._order, self._router = policy.rule(Order), policy.rule(Router) or RoundRobin()
        #: Replica -> calls and prompt tokens under way.
        self._load: defaultdict[int, list[int]] = defaultdict(lambda: [0, 0])

    def send(self, state: Session, call: Call, ahead_of: Call | None = None) -> Start:
        """The call, or with ``ahead_of`` a prefill that goes ahead of that call, with its priority and replica."""
        wanted = ahead_of or call
        numbers, priority = self._replicas(wanted.agent), DEMOTED if state.warned else 0
        replica = numbers[0]
        if self._order or len(numbers) > 1:
            estimate = state.forecast.estimate(wanted.id) if state.forecast else None
            submission = Submission(blind(wanted), state.workflow.parents[wanted.id], estimate)
            view = state.view()
            if self._order:
                priority += _thousandths(self._order, self._order.key(submission, view, self._memory[self._order.name]))
            if wanted.id in state.ahead_at:
                # Its KV is where its prefill went.
                replica = state.ahead_at[wanted.id]
            elif len(numbers) > 1:
                replica = self._route(submission, view, numbers)
        if ahead_of:
            state.ahead_at = {**state.ahead_at, wanted.id: replica}
        state.replica = replica
        load = self._load[replica]
        load[0] += 1
        load[1] += call.num_prompt_tokens
        return Start(state.number, call, priority, replica, "ahead" if ahead_of else "work")

    def ended(self, call: Call, replica: int) -> None:
        """The call is no longer under way."""
        load = self._load[replica]
        load[0] -= 1
        load[1] -= call.num_prompt_tokens

    def _route(self, submission: Submission, view: View, numbers: Sequence[int]) -> int:
        candidates = [Replica(number, *self._load[number]) for number in numbers]
        chosen = self._router.route(submission, view, candidates, self._memory[self._router.name])
        if chosen not in numbers:
            raise PolicyError(
                f"policy {self._policy}: it routes to replica {chosen}; give the number of one that can take the call"
            )
        return chosen


def _thousandths(order: Order, key: float) -> int:
    """A key as a priority. Raises PolicyError for one that is no finite number, or as large as what is demoted."""
    if not isinstance(key, Real) or not abs(key) < DEMOTED / 2000:
        raise PolicyError(f"policy {str_of(order)}: the key of a call is {key!r}; give a number nearer to 0 than 5e11")
    return round(1000 * key)
