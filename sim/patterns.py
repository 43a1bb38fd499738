"""The patterns of work that MAST's frameworks, all but two of them chains, do not have.

Lengths are in tokens of cl100k. Where a default comes from recorded runs, it is their p50 and ln(p95 / p50) / 1.645,
the sigma of the lognormal with these two.
"""

from __future__ import annotations

from dataclasses import dataclass

from sim.synthetic import Lognormal, Pattern, Said, Sketch

#: AG2's answers, all six settings: p50 139, p95 454.
ANY_TEXT = Lognormal(139, 0.72)
#: HyperAgent's answers: 172, 818.
AGENT_STEP = Lognormal(172, 0.95)
#: Peer-Review's answers: 116, 169. MA-ToT's votes, whose texts were not recorded, are taken to be as long.
REVIEW = Lognormal(116, 0.23)
#: MA-ToT's generations: 259, 404.
THOUGHT = Lognormal(259, 0.27)
#: MA-ToT's verifications: 399, 482.
VERDICT = Lognormal(399, 0.11)
#: The issues that HyperAgent works on: 291, 1586.
ISSUE = Lognormal(291, 1.03)
#: The two system prompts of HyperAgent that are known, at 4 characters a token: 747 and 1,853.
AGENT_SYSTEM = Lognormal(1200, 0.64)
#: Of tools only one was ever timed, ChatDev's test run: p50 3 s, a fixed wait. The spread is an assumption.
TOOL_S = Lognormal(3.0, 1.0)
#: Assumptions: nothing recorded tells.
TOOL_OUTPUT = Lognormal(500, 1.0)
DOCUMENT = Lognormal(2000, 0.5)

# One sentence that tells an agent which part of the work is its own.
_PART = Lognormal(20, 0.3)


@dataclass(frozen=True)
class FanOut(Pattern):
    """A planner parts the task, ``branches`` workers do one part each, a joiner reads what they found.

    branches + 2 calls, span 3.
    """

    name = "fan_out"

    branches: int = 8
    plan: Lognormal = ANY_TEXT
    answer: Lognormal = ANY_TEXT
    result: Lognormal = ANY_TEXT

    def build(self, sketch: Sketch) -> None:
        """Planner, workers, joiner."""
        plan = sketch.call("planner", self.plan)
        answers = [
            sketch.call(f"worker-{number}", self.answer, reads=[plan], says=[sketch.message(_PART)])
            for number in range(self.branches)
        ]
        sketch.call("joiner", self.result, reads=answers)


@dataclass(frozen=True)
class TreeOfThought(Pattern):
    """Thoughts are continued step by step, voters read all of them, the best are kept; a verifier reads the last best.

    In each of ``steps`` every thought kept gets ``thoughts`` continuations, ``votes`` voters read them, and the client
    keeps ``beam``; which, is drawn. The votes are shown to nobody; what they decide is a control edge. By default this
    is one reasoner in one round of MA-ToT: 21 calls. Span 2 * steps + 1.
    """

    name = "tree_of_thought"

    steps: int = 2
    thoughts: int = 5
    votes: int = 5
    beam: int = 1
    thought: Lognormal = THOUGHT
    vote: Lognormal = REVIEW
    verdict: Lognormal = VERDICT

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.beam <= self.thoughts, "beam", f"at most thoughts={self.thoughts}")

    def build(self, sketch: Sketch) -> None:
        """Step by step: thoughts, votes; then the verifier."""
        kept: list[tuple[Said, ...]] = [()]
        votes: list[Said] = []
        for _ in range(self.steps):
            paths = [
                (*path, sketch.call("thinker", self.thought, reads=path, decided_by=votes))
                for path in kept
                for _ in range(self.thoughts)
            ]
            everything = [said for path in paths for said in path]
            votes = [sketch.call("voter", self.vote, reads=everything) for _ in range(self.votes)]
            kept = [paths[index] for index in sketch.rng.choice(len(paths), self.beam, replace=False)]
        sketch.call("verifier", self.verdict, reads=kept[0], decided_by=votes)


@dataclass(frozen=True)
class Debate(Pattern):
    """``agents`` answer, and in each further one of ``rounds`` read the last answers of the others and answer again.

    With ``neighbours`` an agent reads only the answers of so many agents after it (around the table), and waits for
    the end of the round all the same. agents * rounds calls, span rounds.
    """

    name = "debate"

    agents: int = 3
    rounds: int = 3
    neighbours: int | None = None
    answer: Lognormal = REVIEW

    def __post_init__(self) -> None:
        super().__post_init__()
        others = self.neighbours is None or self.neighbours < self.agents
        self.require(others, "neighbours", f"less than agents={self.agents}, or leave it out")

    def build(self, sketch: Sketch) -> None:
        """Round by round."""
        last = [sketch.call(f"debater-{number}", self.answer) for number in range(self.agents)]
        for _ in range(self.rounds - 1):
            last = [
                sketch.call(f"debater-{number}", self.answer, own=own, reads=self._read(last, number), barrier=last)
                for number, own in enumerate(last)
            ]

    def _read(self, last: list[Said], reader: int) -> list[Said]:
        if self.neighbours is None:
            return [said for number, said in enumerate(last) if number != reader]
        return [last[(reader + 1 + number) % self.agents] for number in range(self.neighbours)]


@dataclass(frozen=True)
class MapReduce(Pattern):
    """``mappers`` read one document each; reducers join ``fan_in`` answers at a time until one is left.

    A reducer waits for nothing but what it reads; an answer that is left over goes up a level as it is. Span
    1 + the number of levels.
    """

    name = "map_reduce"

    mappers: int = 16
    fan_in: int = 4
    document: Lognormal = DOCUMENT
    answer: Lognormal = ANY_TEXT
    result: Lognormal = ANY_TEXT

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("mappers", "fan_in"):
            self.require(getattr(self, name) > 1, name, "2 or more")

    def build(self, sketch: Sketch) -> None:
        """Mappers, then level after level of reducers."""
        level = [
            sketch.call(f"mapper-{number}", self.answer, says=[sketch.message(self.document)])
            for number in range(self.mappers)
        ]
        while len(level) > 1:
            groups = [level[start : start + self.fan_in] for start in range(0, len(level), self.fan_in)]
            level = [
                sketch.call("reducer", self.result, reads=group) if len(group) > 1 else group[0] for group in groups
            ]


@dataclass(frozen=True)
class PlannerWorkers(Pattern):
    """A planner sends ``workers`` off ``rounds`` times, reads their reports and plans again; its last call answers.

    A worker runs ``tools`` tools a round, each after a call that asks for it; one more call reports. rounds *
    (1 + workers * (tools + 1)) + 1 calls, span rounds * (tools + 2) + 1.
    """

    name = "planner_workers"

    system: Lognormal = AGENT_SYSTEM
    task: Lognormal = ISSUE
    rounds: int = 2
    workers: int = 4
    tools: int = 3
    plan: Lognormal = AGENT_STEP
    step: Lognormal = AGENT_STEP
    tool_output: Lognormal = TOOL_OUTPUT
    tool_s: Lognormal = TOOL_S

    def build(self, sketch: Sketch) -> None:
        """Round by round, worker after worker."""
        plan = sketch.call("planner", self.plan)
        for _ in range(self.rounds):
            reports = [self._report(sketch, f"worker-{number}", plan) for number in range(self.workers)]
            plan = sketch.call("planner", self.plan, own=plan, reads=reports)

    def _report(self, sketch: Sketch, worker: str, plan: Said) -> Said:
        step = sketch.call(worker, self.step, reads=[plan], says=[sketch.message(_PART)])
        for _ in range(self.tools):
            tool = sketch.tool("tool", self.tool_s, self.tool_output, after=step)
            step = sketch.call(worker, self.step, own=step, reads=[tool])
        return step
