"""Group commit: calls that arrive together are decided in one transaction.

One queue per process stands in front of the store. Where nothing is under way a call goes at once;
else it waits for the end of what is, with whoever comes meanwhile: few large transactions cost less
than many small ones, and everybody waits for the processor. Only where enough wait a second
transaction runs beside the first, after two milliseconds in which others may join it.

A transaction takes what it can without waiting. Calls about an account that somebody else has locked,
a consumer's batch say, go on in one of their own, which waits and does not count; nor does one that
has stalled. Calls that name accounts of a transaction under way stay in the queue until it has ended.
So an account that is locked holds up only who has to wait anyhow, and calls about it may fill half of
the queue, no more. Each caller gets their own result, and a command that can never be written costs
only itself.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from functools import partial
from time import perf_counter
from typing import cast

import asyncpg

from faregate.events import tracing
from faregate.gateway.metrics import Metrics
from faregate.gateway.settings import GatewaySettings
from faregate.gateway.stored import Stored, read_back, written
from faregate.ledger.batch import Needs, Submission, needs_of
from faregate.ledger.core import Rejected, Release, Seen, Settle
from faregate.ledger.database import TRANSIENT, TurnedAway
from faregate.ledger.names import Ids
from faregate.ledger.store import BadValue, PositionOf, Result, Store, Unavailable, Without

Decided = Result | BadValue | Unavailable
Answered = Stored | Rejected | BadValue | Unavailable | None
"""What became of one command: as it is stored (also when it was decided before), or why not."""


@dataclass(slots=True, eq=False)
class _Unit:
    """What one caller sent at once: it is never torn apart between transactions."""

    submissions: Sequence[Submission]
    answered: bool
    """Whether the caller wants what was stored, not only what was decided."""
    decided: asyncio.Future[list[Decided]]
    answers: list[Answered] = field(default_factory=list)

    _subjects: set[str] | None = None

    def subjects(self) -> set[str]:
        """Give the accounts that it names."""
        if self._subjects is None:
            self._subjects = needs_of([s.command for s in self.submissions]).subjects
        return self._subjects

    def is_new(self) -> bool:
        """Tell whether it begins anything: what ends holds is let in as long as there is room."""
        return any(not isinstance(s.command, Settle | Release) for s in self.submissions)

    def is_free(self, busy: Collection[str]) -> bool:
        """Tell whether it names none of these accounts."""
        return self.subjects().isdisjoint(busy)


@dataclass(slots=True, eq=False)
class _Lane:
    """Transactions that follow each other, and the units of the one under way."""

    units: Sequence[_Unit] = ()
    subjects: set[str] = field(default_factory=set)
    """The accounts that its units name: other calls about them are left to it."""
    is_apart: bool = False
    """Whether it waits for somebody else, or has stalled: it does not count then."""
    patience: asyncio.TimerHandle | None = None

    def serve(self, units: Sequence[_Unit]) -> None:
        """Take these units, and no others."""
        self.units = units
        self.subjects = {s for unit in units for s in unit.subjects()}

    def submissions(self) -> list[Submission]:
        """Give what its units ask for, one unit after the other."""
        return [s for unit in self.units for s in unit.submissions]


class GroupedStore(Store):
    """A store whose `apply` shares transactions between callers."""

    def __init__(self, store: Store, settings: GatewaySettings, metrics: Metrics) -> None:
        super().__init__(store.pool, store.keys, store.rules, store.checkpoint_every)
        self._settings = settings
        self._metrics = metrics
        self._waiting: deque[_Unit] = deque()
        self._size = 0
        self._about: Counter[str] = Counter()
        """How many commands of those that wait name an account."""
        self._lanes: dict[asyncio.Task[None], _Lane] = {}
        self._held = 0
        """About so many commands of those that wait are left to lanes."""
        self._gathering = False
        self._answering: set[asyncio.Task[None]] = set()

    async def apply(
        self,
        submissions: Sequence[Submission],
        position_of: PositionOf | None = None,
        *,
        erasures: int | None = None,
    ) -> list[Result]:
        """Decide `submissions` with others; see `Store.apply`. Raises BadValue, Unavailable."""
        if position_of is not None or erasures is not None:
            return await super().apply(_traced(submissions), position_of, erasures=erasures)
        decided = await self._queued(submissions, answered=False).decided
        for result in decided:
            if isinstance(result, BadValue | Unavailable):
                raise result
        return [r for r in decided if not isinstance(r, BadValue | Unavailable)]

    async def answer(self, submissions: Sequence[Submission]) -> list[Answered]:
        """Decide `submissions` with others and give what is stored of each, in order.

        A duplicate gives what was stored the first time. Raises TurnedAway.
        """
        unit = self._queued(submissions, answered=True)
        await unit.decided
        return unit.answers

    async def close(self) -> None:
        """Wait until everything that was taken in has been decided."""
        while tasks := self._lanes.keys() | self._answering:
            await asyncio.wait(tasks)

    def _queued(self, submissions: Sequence[Submission], *, answered: bool) -> _Unit:
        decided = asyncio.get_running_loop().create_future()
        unit = _Unit(_traced(submissions), answered, decided)
        self._check_room(unit)
        self._waiting.append(unit)
        self._count(unit, len(submissions))
        self._metrics.waiting.set(self._size)
        if self._is_held(unit):  # the lane that it is left to goes on with the queue
            self._held += len(submissions)
        else:
            is_quiet = not self._lanes  # nothing says that others are coming
            self._open_lane(0 if is_quiet else self._settings.linger_s)
        return unit

    def _check_room(self, unit: _Unit) -> None:
        size, most = len(unit.submissions), self._settings.max_waiting_about_one
        if self._size + size > self._settings.max_waiting:
            why = "too many calls are waiting for a transaction"
        elif unit.is_new() and any(self._about[s] + size > most for s in unit.subjects()):
            why = "too many calls about the same account are waiting for a transaction"
        else:
            return
        self._metrics.refused.inc()
        raise TurnedAway(why)

    def _count(self, unit: _Unit, change: int) -> None:
        """Note that so many commands have come into the queue or, below 0, have left it."""
        self._size += change
        for subject in unit.subjects():
            self._about[subject] += change
            if not self._about[subject]:
                del self._about[subject]

    def _moving(self) -> int:
        return sum(not lane.is_apart for lane in self._lanes.values())

    def _few(self) -> int:
        """Give how many lanes may move: a second one where it has enough to do."""
        return self._settings.lanes if self._size - self._held >= self._settings.enough else 1

    def _is_held(self, unit: _Unit) -> bool:
        return not all(unit.is_free(lane.subjects) for lane in self._lanes.values())

    def _is_full(self) -> bool:
        return len(self._lanes) >= self._settings.most_lanes

    def _open_lane(self, linger_s: float) -> None:
        """Begin another transaction, if there may be one more and none is gathering calls."""
        if not (self._is_full() or self._gathering) and self._moving() < self._few():
            self._gathering = True
            self._begin(_Lane(), linger_s)

    def _begin(self, lane: _Lane, linger_s: float = 0) -> None:
        self._lanes[asyncio.create_task(self._run(lane, linger_s))] = lane

    async def _lock(
        self, connection: asyncpg.Connection, needs: Needs, ids: Ids, *, waits: bool
    ) -> list[asyncpg.Record]:
        lane = self._lanes.get(cast("asyncio.Task[None]", asyncio.current_task()))
        if lane is None:
            return await super()._lock(connection, needs, ids, waits=waits)
        if waits:
            self._set_aside(lane)
        try:
            return await super()._lock(connection, needs, ids, waits=waits)
        finally:
            self._watch(lane)

    def _watch(self, lane: _Lane) -> None:
        """Count a lane as one that moves, as long as it does not stall."""
        self._unwatch(lane)
        stalled_s = self._settings.patience_s
        lane.patience = asyncio.get_running_loop().call_later(stalled_s, self._set_aside, lane)

    def _unwatch(self, lane: _Lane) -> None:
        lane.is_apart = False
        if lane.patience:
            lane.patience.cancel()

    def _set_aside(self, lane: _Lane) -> None:
        lane.is_apart = True
        if self._waiting:
            self._open_lane(0)

    def _without(self, lane: _Lane, busy: AbstractSet[str]) -> Sequence[Submission]:
        """Let those wait in a lane of their own that name accounts which somebody else has locked.

        Give the others: none where there may be no more lanes, so that this one waits for all.
        """
        free = [unit for unit in lane.units if unit.is_free(busy)]
        if not free or self._is_full():
            return ()
        left = _Lane(is_apart=True)
        left.serve([unit for unit in lane.units if not unit.is_free(busy)])
        self._begin(left)
        lane.serve(free)
        return lane.submissions()

    async def _run(self, lane: _Lane, linger_s: float) -> None:
        """Decide batch after batch, until none is left for it or more lanes than a few move."""
        tracing.leave()  # the queue works for many callers
        try:
            if lane.units:
                await self._work(lane)
            else:
                try:
                    await asyncio.sleep(linger_s)
                finally:
                    self._gathering = False
            while self._moving() <= self._few() and (units := self._next_batch()):
                lane.serve(units)
                self._watch(lane)
                await self._work(lane, partial(self._without, lane))
        finally:
            # In the step that found nothing to do: whoever comes in the next one needs a new lane.
            del self._lanes[cast("asyncio.Task[None]", asyncio.current_task())]

    async def _work(self, lane: _Lane, without: Without | None = None) -> None:
        try:
            await self._serve(lane, without)
        except Exception as error:  # noqa: BLE001 - a bug must not leave callers waiting
            _fail(lane.units, error)
        finally:
            self._unwatch(lane)
            lane.serve(())
            self._held = 0

    def _next_batch(self) -> list[_Unit]:
        """Take units up to the cap; one that is larger by itself goes alone.

        Those that name an account of another lane are left in the queue.
        """
        units: list[_Unit] = []
        left: list[_Unit] = []
        size = 0
        while self._waiting:
            more = len(self._waiting[0].submissions)
            if units and size + more > self._settings.max_batch:
                break
            unit = self._waiting.popleft()
            if unit.decided.cancelled():  # its caller has gone before it was taken
                self._count(unit, -more)
            elif self._is_held(unit):
                left.append(unit)
            else:
                units.append(unit)
                size += more
                self._count(unit, -more)
        self._held = sum(len(unit.submissions) for unit in left)
        self._waiting.extendleft(reversed(left))
        self._metrics.waiting.set(self._size)
        return units

    async def _serve(self, lane: _Lane, without: Without | None) -> None:
        began = perf_counter()
        stored: dict[bytes, Stored | Unavailable] = {}
        decided = await self._decided(lane.submissions, stored, without)
        units, submissions = lane.units, lane.submissions()
        self._metrics.batch_seconds.observe(perf_counter() - began)
        self._metrics.batch_size.observe(len(submissions))
        wanted = [s for unit in units if unit.answered for s in unit.submissions]
        before = {
            s.command.identity.event_key
            for s, d in zip(submissions, decided, strict=True)
            if isinstance(d, Seen)
        }
        before -= stored.keys()
        again = [s for s in wanted if s.command.identity.event_key in before] if before else ()
        if not again:
            _give(units, decided, stored)
            return
        # The next batch is decided while what was stored before is read.
        answering = asyncio.create_task(self._answer_again(units, decided, stored, again))
        self._answering.add(answering)
        answering.add_done_callback(self._answering.discard)

    async def _answer_again(
        self,
        units: Sequence[_Unit],
        decided: Sequence[Decided],
        stored: dict[bytes, Stored | Unavailable],
        again: Sequence[Submission],
    ) -> None:
        """Give each caller of a batch what became of their commands, some of them before it."""
        try:
            stored |= await read_back(self, again)
        except TRANSIENT as error:
            away = Unavailable(f"{type(error).__name__}: {error}")
            stored |= dict.fromkeys((s.command.identity.event_key for s in again), away)
        except Exception as error:  # noqa: BLE001 - as above
            _fail(units, error)
            return
        _give(units, decided, stored)

    async def _decided(
        self,
        submissions: Callable[[], Sequence[Submission]],
        stored: dict[bytes, Stored | Unavailable],
        without: Without | None = None,
    ) -> list[Decided]:
        """Apply a batch, which `without` may make smaller, and keep in `stored` what it wrote.

        One that holds a bad value is halved until that one stands alone.
        """
        try:
            applied = await self.take(submissions(), without=without)
        except Unavailable as error:
            return [error] * len(submissions())
        except BadValue as error:
            every = submissions()
            if len(every) == 1:
                return [error]
        else:
            stored |= written(applied)
            return list(applied.results)
        half = len(every) // 2
        first = await self._decided(lambda: every[:half], stored)
        return first + await self._decided(lambda: every[half:], stored)


def _traced(submissions: Sequence[Submission]) -> Sequence[Submission]:
    """Let what commands lead to carry on the trace of the call that they are part of."""
    context = tracing.current()
    if context is None:
        return submissions
    parent, state = context
    return [
        replace(s, refs=replace(s.refs, traceparent=parent, tracestate=state)) for s in submissions
    ]


def _give(
    units: Sequence[_Unit],
    decided: Sequence[Decided],
    stored: Mapping[bytes, Stored | Unavailable],
) -> None:
    at = 0
    for unit in units:
        mine = list(decided[at : at + len(unit.submissions)])
        at += len(mine)
        if unit.answered:
            pairs = zip(unit.submissions, mine, strict=True)
            unit.answers = [_answer(s, d, stored) for s, d in pairs]
        if not unit.decided.done():
            unit.decided.set_result(mine)


def _fail(units: Sequence[_Unit], error: Exception) -> None:
    for unit in units:
        if not unit.decided.done():
            unit.decided.set_exception(error)


def _answer(
    submission: Submission, decided: Decided, stored: Mapping[bytes, Stored | Unavailable]
) -> Answered:
    if decided is None or isinstance(decided, Rejected | BadValue | Unavailable):
        return decided
    found = stored.get(submission.command.identity.event_key)
    return found or Unavailable("the answer could not be read back")
