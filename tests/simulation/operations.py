"""Random histories. Operations are plain data, made up front from the seed, so that any part of
them can be played again: what one names may be missing, then it does nothing.
"""

from collections.abc import Callable, Sequence
from random import Random
from typing import Any, NamedTuple, TypeVar

from tests.simulation.books import DOCUMENTS, INCREMENTS, MICRO, MODELS, PHASES, TIERS

T = TypeVar("T")
Operation = tuple[Any, ...]
"""A name and its arguments; the arguments of each are those of `World.do_<name>`."""

USERS = tuple(f"user:{n}" for n in ("ann", "bob", "cat", "dan", "eve"))
ORGS = ("org:acme", "org:beta", "org:corp")
SUBJECTS = (*USERS, *ORGS, *ORGS)
PIPELINES = 8
HOLDS = 6
"""That callers ask for at once, by numbers of their own."""
WORK = (0, 1)
USAGE = (2, 3)
OFFICES = (4, 5)
RELAY = 6
PROCESSES = (0, 1, 2, 3, 4, 5, 6)
SETTINGS = 4
MILESTONES = ("email_verified", "first_pipeline", "invited")

_DAY = 86_400
_AGES = (0, 0, 0, 0, 1, 60, 60, 3_000, 7_200, 2 * _DAY, 11 * _DAY, 30 * _DAY, -200)
_BAD_AGES = (36 * _DAY, -400)
_CLOCKS = (*(1, 10, 31, 31, 600, 3_601, _DAY) * 4, 6 * _DAY, *(31 * _DAY,) * 3, 100 * _DAY,
           -2, -600, -2 * _DAY)  # fmt: skip
_AMOUNTS = (1, 300_000, 4 * MICRO, 5 * MICRO, 20 * MICRO, 20 * MICRO, 45 * MICRO, 200 * MICRO)
_LARGEST = 10**15 - 1
_TOKENS = (0, 1, 7, 100, 999, 1_000, 1_234, 50_000)
_LIFES = (None, None, None, None, 3_000, _DAY, _DAY, 6 * _DAY, 32 * _DAY, 32 * _DAY)
_FEW = (None, 1, 1, 2, 2, 3, 0)


class History(NamedTuple):
    seed: int
    setting: int
    """Which of the settings it is played with."""
    operations: Sequence[Operation]


class _Maker:
    """Makes one operation after the other, remembering what pipelines and events there are."""

    def __init__(self, seed: int) -> None:
        self.chance = Random(seed).random
        self.events = 0
        self.published: list[int] = []
        self.asked: list[int] = []
        self.runs: dict[int, tuple[str, str | None, int, tuple[str, ...]]] = {}
        self.holds: dict[int, tuple[str, str | None]] = {}

    def pick(self, of: Sequence[T]) -> T:
        return of[int(self.chance() * len(of))]

    def event(self, known: list[int]) -> int:
        self.events += 1
        known.append(self.events)
        return self.events

    def recent(self, known: list[int]) -> int:
        """One of those few that came last: so that they meet."""
        return known[-1 - int(self.chance() * min(len(known), 12))]

    def owner(self) -> tuple[str, str | None]:
        user = self.pick(USERS)
        return user, (None if self.chance() < 0.4 else self.pick(ORGS))

    def of_a_run(self) -> tuple[int | None, str, str | None, int, tuple[str, ...]]:
        """Mostly what fits a pipeline that was asked for, at times anything."""
        pid = int(self.chance() * PIPELINES)
        run, luck = self.runs.get(pid), self.chance()
        user, org = self.owner()
        if run is None or luck < 0.08:
            return (pid if luck < 0.3 else None), user, org, pid % 3, PHASES
        org = None if luck > 0.9 else run[1]  # the org may be left out
        return pid, run[0], org, run[2], run[3]

    # What comes in as events.

    def request(self) -> Operation:
        pid = int(self.chance() * PIPELINES)
        user, org = self.owner()
        pipeline = self.pick(("essay", "essay", "full", "full", "short", "short", "check"))
        if self.chance() < 0.04:
            pipeline = "what"
        phases = (self.pick(PHASES), "score") if self.chance() < 0.08 else None
        if phases and phases[0] == phases[1]:
            phases = None
        batch = self.pick((0, 1, 2))
        if pid not in self.runs or self.chance() < 0.7:
            self.runs[pid] = (user, org, batch, phases or ("free_check", "compare", "score"))
        else:
            user, org, batch, _ = self.runs[pid]
        items = self.pick((1, 2, 3, 3, 4, 4, 10))
        left = self.pick((-1, 1, 500)) if self.chance() < 0.1 else None
        event = self.event(self.published)
        return (
            "request", event, self.pick(WORK), pid, user, org, batch, pipeline, items, phases, left
        )  # fmt: skip

    def usage(self) -> Operation:
        pid, user, org, _, phases = self.of_a_run()
        phase, units, model = None, None, None
        tokens: tuple[int | None, int | None] = (None, None)
        if self.chance() < 0.4:
            model = self.pick((*MODELS, MODELS[2]))
            tokens = (self.pick(_TOKENS), self.pick(_TOKENS))
        else:
            phase = self.pick(phases) if self.chance() < 0.9 else "extra"
            units = self.pick((1, 1, 1, 2, 2, 3, 6))
            if self.chance() < 0.05:
                units = 45 if self.chance() < 0.8 else 10**9
        if self.chance() < 0.2:
            pid = None
        return (
            "usage", self.event(self.published), self.pick(USAGE), pid, user, org,
            self.pick(_AGES if self.chance() < 0.97 else _BAD_AGES), self.chance() < 0.1, phase, units, model, *tokens,
        )  # fmt: skip

    def progress(self) -> Operation:
        pid, user, org, batch, phases = self.of_a_run()
        items = self.pick((None, None, 2, 4, 10))
        event = self.event(self.published)
        return ("progress", event, self.pick(WORK), pid or 0, user, org, batch,
                self.pick(phases), items)  # fmt: skip

    def finished(self) -> Operation:
        pid, user, org, _, _ = self.of_a_run()
        event = self.event(self.published)
        return ("finished", event, self.pick(WORK), pid or 0, user, org, self.pick(_FEW))

    def register(self) -> Operation:
        sender = self.pick(USERS) if self.chance() < 0.5 else None
        event = self.event(self.published)
        return ("register", event, self.pick(WORK), self.pick(USERS), self.chance() < 0.6, sender)

    def again(self) -> Operation:
        if not self.published:
            return self.usage()
        return ("again", self.recent(self.published), self.pick((0, 1)))

    def renamed(self) -> Operation:
        if not self.published:
            return self.usage()
        of = self.recent(self.published)
        return ("renamed", self.event(self.published), of, self.pick((0, 1)))

    def conflict(self) -> Operation:
        if not self.published:
            return self.usage()
        of = self.recent(self.published)
        new = of if self.chance() < 0.6 else self.event(self.published)
        return ("conflict", new, of, self.pick((0, 1)))

    # What finance, operations and programs ask for.

    def grant(self) -> Operation:
        kind, amount = self.pick(("purchase", "bonus")), self.pick(_AMOUNTS)
        if self.chance() < 0.02:
            amount = _LARGEST
        return ("grant", self.event(self.asked), self.pick(SUBJECTS), kind, amount,
                self.pick((100, 100, 100, 50, 150)), self.pick(_LIFES))  # fmt: skip

    def set_balance(self) -> Operation:
        target = self.pick((0, 1, 10, 45, 50)) * MICRO
        return ("set", self.event(self.asked), self.pick(SUBJECTS), target)

    def revoke(self) -> Operation:
        number = self.pick((1, 1, 2, 3, 4, 5, 8, 13))
        return ("revoke", self.event(self.asked), self.pick(SUBJECTS), number)

    def refund(self) -> Operation:
        return ("refund", self.event(self.asked), self.pick((0, 0, 0, 1, 2, 3, 5)))

    def tier(self) -> Operation:
        subject = self.pick(USERS if self.chance() < 0.7 else ORGS)
        tier = self.pick(TIERS) if self.chance() < 0.96 else "nope"
        return ("tier", self.event(self.asked), subject, tier, self.chance() < 0.2)

    def quota(self) -> Operation:
        return ("quota", self.event(self.asked), self.pick(USERS), self.pick((None, 0, 1, 3)))

    def alerts(self) -> Operation:
        return ("alerts", self.event(self.asked), self.pick(SUBJECTS),
                self.pick((None, 0, 3 * MICRO)), self.pick((None, 0, 50)))  # fmt: skip

    def policy(self) -> Operation:
        wanted = self.pick(("pool", "allocated"))
        return ("policy", self.event(self.asked), self.pick(ORGS), wanted)

    def member(self) -> Operation:
        role = self.pick(("admin", "member", "member", "removed", "removed"))
        return ("member", self.event(self.asked), self.pick(ORGS), self.pick(USERS), role)

    def allocate(self) -> Operation:
        amount = self.pick(
            (
                MICRO,
                10 * MICRO,
                40 * MICRO,
                40 * MICRO,
                40 * MICRO,
                _LARGEST,
                -MICRO,
                -5 * MICRO,
                None,
            )
        )
        return ("allocate", self.event(self.asked), self.pick(ORGS), self.pick(USERS), amount,
                self.pick(_LIFES))  # fmt: skip

    def unlock(self) -> Operation:
        milestone = self.pick((*MILESTONES, "nope"))
        return ("unlock", self.event(self.asked), self.pick(USERS), milestone)

    def deduct(self) -> Operation:
        cost = self.pick((0, 1, 500_000, MICRO, 6 * MICRO))
        return ("deduct", self.event(self.asked), *self.owner(), cost, self.chance() < 0.5)

    def reserve(self) -> Operation:
        number, (user, org) = int(self.chance() * HOLDS), self.owner()
        self.holds.setdefault(number, (user, org))
        amount: int | None = self.pick((0, 1, MICRO, MICRO, 3 * MICRO, 20 * MICRO))
        model, tokens = None, (0, 0)
        if self.chance() < 0.4:
            amount, model = None, self.pick(MODELS)
            tokens = (self.pick(_TOKENS), self.pick(_TOKENS))
        return ("reserve", self.event(self.asked), number, user, org, amount, model, *tokens,
                self.pick((None, 60, 600)), self.chance() < 0.3)  # fmt: skip

    def of_a_hold(self) -> tuple[int, str, str | None]:
        number = self.pick([*self.holds]) if self.holds else 0
        known = self.holds.get(number)
        return (number, *(known if known and self.chance() < 0.95 else self.owner()))

    def settle(self) -> Operation:
        cost: int | None = self.pick((0, 1, MICRO, 2 * MICRO, 5 * MICRO))
        model, tokens = None, (0, 0)
        if self.chance() < 0.4:
            cost, model = None, self.pick(MODELS)
            tokens = (self.pick(_TOKENS), self.pick(_TOKENS))
        return ("settle", self.event(self.asked), *self.of_a_hold(), cost, model, *tokens,
                self.chance() < 0.5)  # fmt: skip

    def release(self) -> Operation:
        return ("release", self.event(self.asked), *self.of_a_hold())

    def look(self) -> Operation:
        return ("look", self.event(self.asked), self.pick(USERS))

    def ask_again(self) -> Operation:
        if not self.asked:
            return self.grant()
        return ("ask_again", self.recent(self.asked))

    def sweep(self) -> Operation:
        self.events += 1000  # each act of a sweep has an id of its own
        return ("sweep", self.events - 999)

    def prices(self) -> Operation:
        return ("prices", int(self.chance() * len(DOCUMENTS)),
                int(self.chance() * len(INCREMENTS)), self.pick((0, 0, 0, 3_600, -_DAY)))  # fmt: skip

    # What happens to the machines.

    def run(self) -> Operation:
        return ("run", self.pick(PROCESSES), 1 + int(self.chance() * 20))

    def crash(self) -> Operation:
        return ("crash", self.pick(PROCESSES), int(self.chance() * 10))

    def zombie(self) -> Operation:
        return ("zombie", self.pick((0, 1, 2, 3)), int(self.chance() * 6))

    def clock(self) -> Operation:
        return ("clock", self.pick(_CLOCKS))


_WEIGHTS: dict[Callable[[_Maker], Operation], int] = {
    _Maker.request: 12,
    _Maker.usage: 16,
    _Maker.progress: 3,
    _Maker.finished: 5,
    _Maker.register: 2,
    _Maker.again: 4,
    _Maker.renamed: 1,
    _Maker.conflict: 1,
    _Maker.grant: 6,
    _Maker.set_balance: 2,
    _Maker.revoke: 1,
    _Maker.refund: 3,
    _Maker.tier: 3,
    _Maker.quota: 1,
    _Maker.alerts: 1,
    _Maker.policy: 1,
    _Maker.member: 2,
    _Maker.allocate: 4,
    _Maker.unlock: 1,
    _Maker.deduct: 3,
    _Maker.reserve: 4,
    _Maker.settle: 4,
    _Maker.release: 1,
    _Maker.look: 1,
    _Maker.ask_again: 1,
    _Maker.sweep: 4,
    _Maker.prices: 1,
    _Maker.run: 24,
    _Maker.crash: 4,
    _Maker.zombie: 1,
    _Maker.clock: 5,
}
_TABLE = tuple(kind for kind, weight in _WEIGHTS.items() for _ in range(weight))


def make_history(seed: int, operations: int = 200) -> History:
    """The history of a seed: the same one each time, on every machine."""
    maker = _Maker(seed)
    setting = int(maker.chance() * SETTINGS)
    first: list[Operation] = [("prices", 0, 0, -40 * _DAY)]
    first += [("policy", maker.event(maker.asked), ORGS[0], "allocated")]
    first += [maker.pick(_TABLE)(maker) for _ in range(operations - len(first))]
    return History(seed, setting, first)
