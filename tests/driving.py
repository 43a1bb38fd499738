"""A `Run` without an engine: what is under way ends in a drawn order, as if it had been served in a drawn way."""

from sim.rules import Served
from sim.signals import Signals
from sim.workflow import Call

#: What a gate sees, now and then: a cache that is full of what nobody reads again, or nearly empty.
SIGNALS = (
    Signals(kv_use=0.9, kv_tokens=100, prefix_queries=1000, prefix_hits=10, num_running=3, num_waiting=5),
    Signals(kv_use=0.1, kv_tokens=100, prefix_queries=2000, prefix_hits=900, num_running=1, num_waiting=0),
)


class Driver:
    """Tells a run of one event after the other. ``decided``: what it answered; ``ended``: (session, node) that did.

    Half of the ``choices`` let the next workflow arrive, the others let something end that is under way. What Served
    says comes from the choices too: no tape is read. ``now_s``: event number -> seconds.
    """

    def __init__(self, run, workflows, now_s=float):
        self.run, self.decided, self.ended, self._now_s = run, [], set(), now_s
        self._to_come = list(enumerate(workflows))
        self._under_way = []

    def drive(self, choices):
        """One event for each choice, as long as there are any, and looks at the engine between them."""
        for number, choice in enumerate(choices):
            if not self._to_come and not self._under_way:
                break
            now_s = self._now_s(number)
            self._note(self._event(choice, now_s))
            if self.run.every_s and number % 3 == 2:
                self._note(self.run.tick(SIGNALS[choice % 2], now_s))
        return self

    def starts(self, session=None):
        """What was started after each event: session, node, priority, replica and purpose; of one session or all."""
        return [
            [(one.session, one.node.id, *one[2:]) for one in starts if session in (None, one.session)]
            for starts in self.decided
        ]

    def _event(self, choice, now_s):
        if self._to_come and (choice % 2 or not self._under_way):
            return self.run.arrive(*self._to_come.pop(0), now_s)
        start = self._under_way.pop(choice % len(self._under_way))
        self.ended.add((start.session, start.node.id))
        served = Served(choice % 5 / 2 + 0.1, choice % 7, choice % 11 + 1, choice % 13 + 1)
        return self.run.finish(start, now_s, served if isinstance(start.node, Call) else None)

    def _note(self, starts):
        self._under_way += starts
        self.decided.append(starts)
