"""Least attained service along the longest path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sim.policies.plas import Plas
from sim.rules import Served, Submission, View
from sim.workflow import Node

#: Session -> node -> seconds of service on the longest path that ends with it.
Paths = dict[int, dict[str, float]]


@dataclass(frozen=True)
class Atlas(Plas):
    """The less service the longest path to a call has had, the sooner it goes: the longest of its parents' paths.

    Tools add nothing. Queues and ``beta`` are those of `plas`; for a chain of calls the two are the same. Information:
    the call's parents, and how long the workflow's finished calls waited and were served. Source: ATLAS of
    Autellix (Luo et al. 2025), for programs with parallel calls.
    """

    name = "atlas"

    def begin(self) -> Paths:
        """Nobody was served."""
        return {}

    def arrived(self, view: View, memory: Paths) -> None:
        """Nothing of it is done."""
        memory[view.session] = {}

    def finished(self, node: Node, parents: tuple[str, ...], served: Served | None, view: View, memory: Paths) -> None:
        """Its service comes on top of the longest path to it."""
        paths = memory[view.session]
        paths[node.id] = _longest(paths, parents) + (served.service_s if served else 0.0)

    def over(self, view: View, memory: Paths) -> None:
        """Forget it."""
        del memory[view.session]

    def key(self, submission: Submission, view: View, memory: Paths) -> float:
        """The queue of the longest path to the call."""
        return self.level(_longest(memory[view.session], submission.parents), view)


def _longest(paths: dict[str, float], nodes: Sequence[str]) -> float:
    """Of the paths to these nodes; for one that still runs, as when its child is prefilled ahead, of all paths."""
    so_far = max(paths.values(), default=0.0)
    return max((paths.get(node, so_far) for node in nodes), default=0.0)
