"""Tenants share the engine by tokens."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from sim.rules import Order, Served, Submission, View
from sim.workflow import Node

#: What a token counts: generating one costs more than reading one.
_INPUT, _OUTPUT = 1, 2


@dataclass(slots=True)
class _Tenants:
    """Tenant -> weighted tokens that it was served, and its workflows under way; the tokens of who left last."""

    served: Counter[str] = field(default_factory=Counter)
    active: Counter[str] = field(default_factory=Counter)
    left: int = 0


@dataclass(frozen=True)
class Fair(Order):
    """The fewer tokens a tenant was served, an output token counting as two, the sooner its calls go.

    A tenant is a framework. One that comes is lifted to the least of those that are there, or to the one that left
    last, so that nobody saves up for later. VTC counts a prompt as it is scheduled and each token as it is generated;
    a client counts a call when it has ended. Information: the lengths of finished calls. Source: virtual token
    counter, VTC (Sheng et al., OSDI 2024).
    """

    name = "fair"

    def begin(self) -> _Tenants:
        """Nobody was served."""
        return _Tenants()

    def arrived(self, view: View, memory: _Tenants) -> None:
        """A tenant that was away starts level with the others."""
        tenant = view.framework
        if not memory.active[tenant]:
            there = [memory.served[other] for other, workflows in memory.active.items() if workflows]
            memory.served[tenant] = max(memory.served[tenant], min(there, default=memory.left))
        memory.active[tenant] += 1

    def finished(
        self, node: Node, parents: tuple[str, ...], served: Served | None, view: View, memory: _Tenants
    ) -> None:
        """Its tokens count for its tenant."""
        if served:
            memory.served[view.framework] += _INPUT * served.num_prompt_tokens + _OUTPUT * served.num_output_tokens

    def over(self, view: View, memory: _Tenants) -> None:
        """A tenant whose last workflow is over leaves."""
        memory.active[view.framework] -= 1
        if not memory.active[view.framework]:
            memory.left = memory.served[view.framework]

    def key(self, submission: Submission, view: View, memory: _Tenants) -> float:
        """The tenant's tokens."""
        return memory.served[view.framework]
