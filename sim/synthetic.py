"""Workflows that are drawn, not recorded: patterns of multi-agent work.

A pattern is one class, found by its ``name``; its fields are its parameters (`sim.patterns` has those that workspan
knows). In `Pattern.build` it says who calls the LLM and what each call reads::

    @dataclass(frozen=True)
    class Relay(Pattern):
        name = "relay"
        runners: int = 3
        answer: Lognormal = Lognormal(139, 0.72)

        def build(self, sketch: Sketch) -> None:
            said = sketch.call("runner-0", self.answer)
            for number in range(1, self.runners):
                said = sketch.call(f"runner-{number}", self.answer, reads=[said])

``parse_pattern("relay:runners=5,answer=300,answer_sigma=0.5")`` then is such a pattern, and `generate` draws workflows
of it.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, ClassVar, NamedTuple

import numpy as np

from sim.chat import Recorder
from sim.errors import RunError, nearest
from sim.load import generator
from sim.tokens import Tokenizer
from sim.traces import segment_id
from sim.workflow import Edge, Segment, Workflow

NOTE = "synthetic: structure from a pattern, token counts and tool times drawn from its distributions"

#: Tokens or seconds: no draw is longer.
_LONGEST = 1e6
_MOST_NODES = 1000
_MAX_SIGMA = 3.0

_TOKENIZER = Tokenizer("synthetic", len)
# The end of a message and the header of the next one, as in the common chat template.
_TURN = Segment("synthetic:turn", 4)


class Lognormal(NamedTuple):
    """A distribution of lengths or times by its median and the standard deviation of its logarithm."""

    median: float
    sigma: float

    def draw(self, rng: np.random.Generator) -> float:
        """A value of at most a million."""
        return min(_LONGEST, self.median * math.exp(self.sigma * rng.standard_normal()))

    def tokens(self, rng: np.random.Generator) -> int:
        """A whole number of at least 1."""
        return max(1, round(self.draw(rng)))


#: Two default lengths that most patterns share: ChatDev's system messages, and AG2's tasks.
SYSTEM = Lognormal(201, 0.09)
PROBLEM = Lognormal(61, 0.38)


class Said(NamedTuple):
    """What a call or a tool said: its node, the prompt before it (a tool has none), and the text as a segment."""

    node: str
    prompt: tuple[Segment, ...]
    text: Segment


@dataclass(frozen=True)
class Pattern(ABC):
    """A family of workflows. ``system`` and ``task``: how long system prompts are, and the workflow's task.

    A field is a count (1 to 1,000) or a `Lognormal`; all have defaults. Raises RunError for what makes no sense.
    """

    name: ClassVar[str]

    system: Lognormal = SYSTEM
    task: Lognormal = PROBLEM

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            name, value = field.name, getattr(self, field.name)
            if isinstance(value, Lognormal):
                self.require(0 < value.median <= _LONGEST, name, f"more than 0 and at most {_LONGEST:,.0f}")
                self.require(0 <= value.sigma <= _MAX_SIGMA, f"{name}_sigma", f"0 to {_MAX_SIGMA:g}")
            elif value is not None:
                self.require(1 <= value <= _MOST_NODES, name, f"1 to {_MOST_NODES:,}")

    @abstractmethod
    def build(self, sketch: Sketch) -> None:
        """Draw one workflow: every call and tool, in an order in which one agent after the other could work."""

    def draw(self, rng: np.random.Generator, workflow_id: str) -> Workflow:
        """One workflow of the pattern."""
        sketch = Sketch(self, rng, workflow_id)
        self.build(sketch)
        return sketch.workflow()

    @property
    def framework(self) -> str:
        """The name under which results are grouped."""
        return f"Synthetic-{type(self).__name__}"

    def parameters(self) -> dict[str, Any]:
        """Every parameter as one would type it: a lognormal ``x`` has its median as x and its sigma as x_sigma."""
        found: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Lognormal):
                found.update({field.name: float(value.median), f"{field.name}_sigma": float(value.sigma)})
            else:
                found[field.name] = value
        return found

    def require(self, holds: bool, name: str, mend: str) -> None:
        """Raise RunError about the parameter unless the condition holds."""
        if not holds:
            raise RunError(f"pattern {self.name}: {name}={_number(self.parameters()[name])}; give {mend}")

    def __str__(self) -> str:
        """The pattern as one would type it, without what is as by default: ``debate:agents=4``."""
        usual = type(self)().parameters()
        given = (f"{name}={_number(value)}" for name, value in self.parameters().items() if value != usual[name])
        return ":".join(filter(None, (self.name, ",".join(given))))


class Sketch:
    """One workflow that is being drawn.

    An agent "worker-3" has the role "worker"; all of one role have the same system prompt, in every workflow.
    """

    def __init__(self, pattern: Pattern, rng: np.random.Generator, workflow_id: str) -> None:
        self.rng = rng
        self._pattern = pattern
        self._id = workflow_id
        self._run = segment_id(workflow_id)
        self._recorder = Recorder(_TOKENIZER)
        self._num_segments = 0
        self.task = self.message(pattern.task)

    def message(self, length: Lognormal) -> Segment:
        """A text of this workflow alone."""
        self._num_segments += 1
        return Segment(f"{self._run}-{self._num_segments}", length.tokens(self.rng))

    def call(
        self,
        agent: str,
        length: Lognormal,
        *,
        own: Said | None = None,
        reads: Sequence[Said] = (),
        says: Sequence[Segment] = (),
        decided_by: Sequence[Said] = (),
        barrier: Sequence[Said] = (),
    ) -> Said:
        """An LLM call whose answer has that length.

        The prompt is the agent's system prompt and the task or, where the agent goes on, its ``own`` last prompt and
        answer; then what it ``reads`` of others and what the client ``says``. ``decided_by``: answers by which the
        client decided on this call without showing them; ``barrier``: calls it waits for by the pattern's rule only.
        """
        if len(self._recorder.nodes) >= _MOST_NODES:
            raise RunError(f"pattern {self._pattern}: more than {_MOST_NODES:,} calls and tools; give smaller numbers")
        system = _system(self._pattern.framework, agent.partition("-")[0], self._pattern.system)
        begin = (*own.prompt, own.text, _TURN) if own else (system, _TURN, self.task)
        prompt = (*begin, *(said.text for said in reads), *says, _TURN)
        answer = self.message(length)
        node = self._recorder.call_of(agent, prompt, answer)
        edges = [Edge(said.node, node, "visible") for said in ([own, *reads] if own else reads)]
        edges += [Edge(said.node, node, "control") for said in decided_by]
        edges += [Edge(said.node, node, "control", used=False) for said in barrier]
        first: dict[str, Edge] = {}  # of two edges from one parent the first says most
        for edge in edges:
            first.setdefault(edge.parent, edge)
        self._recorder.edges += first.values()
        return Said(node, prompt, answer)

    def tool(self, name: str, seconds: Lognormal, output: Lognormal, after: Said) -> Said:
        """A tool that is run with what was said, and whose output has that length."""
        node = self._recorder.tool(name, seconds.draw(self.rng))
        self._recorder.edges.append(Edge(after.node, node, "visible"))
        return Said(node, (), self.message(output))

    def workflow(self) -> Workflow:
        """What was drawn."""
        return self._recorder.workflow(self._id, self._pattern.framework, self.task.segment_id, notes=(NOTE,))


def patterns() -> dict[str, type[Pattern]]:
    """Name -> pattern class."""
    import_module("sim.patterns")
    return {kind.name: kind for kind in Pattern.__subclasses__()}


def parse_pattern(text: str) -> Pattern:
    """``name`` or ``name:parameter=value,..`` as a pattern. Raises RunError with the nearest name."""
    name, _, rest = text.partition(":")
    if name not in patterns():
        raise RunError(f"no pattern {name!r}{nearest(name, patterns())}")
    usual = patterns()[name]()
    given = [_parameter(usual, item) for item in rest.split(",") if rest]
    if len(dict(given)) < len(given):
        raise RunError(f"pattern {text}: a parameter occurs twice; give each once")
    values = {**usual.parameters(), **dict(given)}
    fields = {field.name: getattr(usual, field.name) for field in dataclasses.fields(usual)}
    return type(usual)(
        **{
            name: Lognormal(values[name], values[f"{name}_sigma"]) if isinstance(value, Lognormal) else values[name]
            for name, value in fields.items()
        }
    )


def generate(pattern: Pattern, number: int, seed: int) -> list[Workflow]:
    """``number`` workflows of the pattern. The same in every process; workflow i is the same whatever the number."""
    if number < 1:
        raise RunError(f"{number} workflows of pattern {pattern}: give 1 or more")
    name = str(pattern)
    ids = (f"synthetic/{name}/{seed}/{index}" for index in range(number))
    return [pattern.draw(generator(seed, workflow_id), workflow_id) for workflow_id in ids]


def _parameter(usual: Pattern, item: str) -> tuple[str, float]:
    name, _, value = item.partition("=")
    known = usual.parameters()
    if name not in known:
        raise RunError(f"pattern {usual.name} has no parameter {name!r}{nearest(name, known)}")
    is_count = not isinstance(known[name], float)
    try:
        return name, int(value) if is_count else float(value)
    except ValueError as error:
        raise RunError(f"pattern {usual.name}: {name}={value!r} is no{' whole' if is_count else ''} number") from error


def _number(value: float | None) -> str:
    """As one would type it."""
    return str(value).removesuffix(".0")


@cache
def _system(framework: str, role: str, length: Lognormal) -> Segment:
    """The system prompt of a role: one text, and one length, in all workflows with this distribution."""
    num_tokens = length.tokens(generator(0, f"system {framework} {role}"))
    return Segment(f"system:{framework}:{role}:{num_tokens}", num_tokens)
