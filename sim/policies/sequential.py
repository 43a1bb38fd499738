"""One node of the workflow at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sim.rules import Dispatch, View
from sim.workflow import Node


@dataclass(frozen=True)
class Sequential(Dispatch):
    """One call or tool of the workflow at a time, in log order: how most recorded frameworks ran.

    Workflows do not wait for each other. Information: none. Source: the prototype's baseline.
    """

    name = "sequential"

    def select(self, view: View) -> Sequence[Node]:
        """The first ready node of the log, once nothing is under way."""
        return () if view.calls_in_flight or view.tools_in_flight else view.ready[:1]
