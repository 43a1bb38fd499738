"""The order in which workflows would end if all shared the engine fairly."""

from __future__ import annotations

from dataclasses import dataclass, field

from sim.rules import Informed, Served, Submission, View
from sim.workflow import Node

#: Keys are sent in thousandths; in thousands of token-steps they are whole numbers that stay small enough.
_UNIT = 1000.0


@dataclass(slots=True)
class _Fair:
    """``now``: virtual time, the token-steps that each workflow under way should have had so far."""

    now: float = 0.0
    arrivals: dict[int, float] = field(default_factory=dict)
    finishes: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Justitia(Informed):
    """The earlier a workflow would end under fair sharing, the sooner its calls go: virtual arrival plus its cost.

    A call of p prompt and d output tokens costs p*d + d^2/2 token-steps of KV memory. What is known of a workflow's
    cost when its first call is sent holds to its end. Virtual time goes on by the cost of each finished call, shared
    by the workflows under way; Justitia's goes on with the clock, at the rate of the whole memory over the
    workflows. Ours sees no clock: it is as fast as the calls are, and stands still between them. Information: an
    estimate of the workflow's cost, and the lengths of finished calls. Source: Justitia; virtual time that is told by
    the service itself is Golestani's (1994).
    """

    name = "justitia"

    def begin(self) -> _Fair:
        """Virtual time is 0."""
        return _Fair()

    def arrived(self, view: View, memory: _Fair) -> None:
        """It begins now, in virtual time."""
        memory.arrivals[view.session] = memory.now

    def finished(self, node: Node, parents: tuple[str, ...], served: Served | None, view: View, memory: _Fair) -> None:
        """Virtual time goes on."""
        if served:
            prompt, output = served.num_prompt_tokens, served.num_output_tokens
            memory.now += (prompt * output + output * output / 2) / len(memory.arrivals)

    def over(self, view: View, memory: _Fair) -> None:
        """One less shares the engine."""
        del memory.arrivals[view.session]
        memory.finishes.pop(view.session, None)

    def key(self, submission: Submission, view: View, memory: _Fair) -> float:
        """The workflow's virtual finish, fixed at its first call."""
        assert submission.estimate
        finish = memory.arrivals[view.session] + submission.estimate.cost
        return memory.finishes.setdefault(view.session, finish) / _UNIT
