"""Everything as soon as its parents are done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sim.errors import PolicyError
from sim.rules import Dispatch, View
from sim.workflow import Call, Node


@dataclass(frozen=True)
class Async(Dispatch):
    """A node starts as soon as its parents are done; ``max_parallel`` limits the workflow's calls in flight.

    Tools are not limited. Information: none. Source: how any asynchronous client works; the fair baseline, with
    continuous batching (Yu et al., OSDI 2022).
    """

    name = "async"
    aliases = ("parallel",)

    max_parallel: int | None = None

    def __post_init__(self) -> None:
        if self.max_parallel is not None and self.max_parallel < 1:
            raise PolicyError(f"policy async: max_parallel={self.max_parallel}; give 1 or more")

    def select(self, view: View) -> Sequence[Node]:
        """Every ready tool, and ready calls while there is room."""
        if self.max_parallel is None:
            return view.ready
        calls = [node for node in view.ready if isinstance(node, Call)]
        held = calls[max(0, self.max_parallel - view.calls_in_flight) :]
        return [node for node in view.ready if node not in held]
