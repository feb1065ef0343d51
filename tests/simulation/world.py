"""The world of a history: Kafka, the database, and the processes between them.

Each process is a generator that stops after every step, so that it can die between any two: what
it had in memory is gone then, what it had committed stays.
"""

from collections import deque
from collections.abc import Generator, Sequence
from datetime import timedelta
from typing import Any, Protocol

from tests.simulation.commands import EVENTS, OFFICE, renamed, sweeps, twisted
from tests.simulation.database import Broken, Conflict, Database, Loaded
from tests.simulation.downstream import Downstream
from tests.simulation.operations import MILESTONES, OFFICES, PROCESSES, RELAY, USAGE, WORK, History

from faregate.ledger.batch import needs_of
from faregate.ledger.core import (
    Command,
    Decision,
    Rejected,
    Rules,
    Usage,
    Welcome,
    decide,
)

Step = bool
"""What a process yields: whether it has something to do."""
Process = Generator[Step, None, None]
ATTEMPTS = 20
ROUNDS = 20_000

RULES = (
    Rules(provisioning="auto", welcome=Welcome(by_referral=(("spring", 9_000_000),))),
    Rules(provisioning="manual", low_micro=2_000_000),
    Rules(
        provisioning="auto",
        welcome=Welcome(
            verified_only=True,
            referral_bonus=1_000_000,
            milestones=tuple((name, 1_000_000) for name in MILESTONES),
        ),
    ),
    Rules(
        provisioning="auto",
        low_percent=20,
        welcome=Welcome(days=10, arms=(("a", 5_000_000), ("b", 3_000_000))),
    ),
)


class Checker(Protocol):
    """What looks at each transaction as it commits."""

    def check(self, loaded: Loaded, decision: Decision) -> None: ...


class World:
    def __init__(self, history: History) -> None:
        self.db = Database(RULES[history.setting])
        self.logs: dict[int, list[Command]] = {p: [] for p in (*WORK, *USAGE)}
        self.inbox: dict[int, deque[list[Command]]] = {p: deque() for p in OFFICES}
        self.events: dict[int, Command] = {}
        self.asked: dict[int, Command] = {}
        self.dead_letters: set[tuple[bytes, bytes]] = set()
        self.downstream = Downstream()
        self.checkers: list[Checker] = []
        self.went_back = False
        self.zombies: list[Process] = []
        self.processes: dict[int, Process] = {p: self.start(p) for p in PROCESSES}

    # Processes.

    def start(self, process: int) -> Process:
        if process == RELAY:
            return self.relay()
        return self.office(process) if process in OFFICES else self.consumer(process)

    def consumer(self, partition: int) -> Process:
        """Poll, decide, write money and offset together, go on."""
        log, position = self.log_of(partition), self.first_position(partition)
        while True:
            if position >= len(log):
                yield False
                continue
            commands = log[position : position + 1 + (position * 7 + partition) % 6]
            yield True
            position += len(commands)
            yield from self.transact(commands, partition, position)

    def log_of(self, partition: int) -> list[Command]:
        return self.logs[partition]

    def first_position(self, partition: int) -> int:
        """Where a consumer goes on: at the offset that is kept with the money."""
        return self.db.offsets.get(partition, 0)

    def office(self, number: int) -> Process:
        """Callers of the gateway, who ask again until they have an answer."""
        inbox = self.inbox[number]
        while True:
            if not inbox:
                yield False
                continue
            yield from self.transact(inbox[0], None, 0)
            inbox.popleft()

    def transact(
        self, commands: Sequence[Command], partition: int | None, position: int
    ) -> Process:
        """One batch: lock, load, decide, write, commit; a crash can come at each `yield`."""
        me, db = object(), self.db
        needs = needs_of(commands)
        db.ensure(needs)
        try:
            for _ in range(ATTEMPTS):
                while (locked := db.lock(me, needs)) is None:
                    yield True
                try:
                    loaded = db.load(locked, needs, commands)
                    yield True
                    decision = decide(loaded.state, commands, loaded.now)
                    yield True
                    self.publish_dead_letters(commands, decision)
                    yield True
                    yield from self.write(loaded, decision, partition, position)
                except Conflict:
                    db.unlock(me)
                    continue
                db.unlock(me)
                yield True
                return
            raise Broken("the same rows kept changing")
        finally:
            db.unlock(me)

    def publish_dead_letters(self, commands: Sequence[Command], decision: Decision) -> None:
        for command, result in zip(commands, decision.results, strict=True):
            if isinstance(result, Rejected):
                identity = command.identity
                self.dead_letters.add((identity.event_key, identity.fingerprint))

    def write(
        self, loaded: Loaded, decision: Decision, partition: int | None, position: int
    ) -> Process:
        """Commit a decision and the offset, as one."""
        self.db.commit(loaded, decision)
        if partition is not None:
            self.db.put_offset(partition, position)
        self.committed(loaded, decision)
        yield True

    def committed(self, loaded: Loaded, decision: Decision) -> None:
        for checker in self.checkers:
            checker.check(loaded, decision)

    def relay(self) -> Process:
        """Publish what waits, in order; delete it once it is acknowledged."""
        outbox = self.db.outbox
        while True:
            if not outbox:
                yield False
                continue
            waiting = self.next_rows()
            for number in waiting:
                records = self.downstream.records_of(number, outbox[number])
                half = len(records) // 2
                for record in records[:half]:
                    self.downstream.receive(record)
                yield True
                for record in records[half:]:
                    self.downstream.receive(record)
            yield True
            for number in waiting:
                del outbox[number]
            yield True

    def next_rows(self) -> list[int]:
        """The oldest rows of the outbox."""
        return [number for number, _ in zip(self.db.outbox, range(4), strict=False)]

    def step(self, process: int) -> bool:
        """One step of a process, or of what should be dead of it."""
        if self.zombies:
            for zombie in self.zombies[:]:
                if not next(zombie, False):
                    zombie.close()
                    self.zombies.remove(zombie)
        return next(self.processes[process])

    # Operations of a history.

    def play(self, operation: tuple[Any, ...]) -> None:
        name = operation[0]
        make = EVENTS.get(name)
        if make is not None:
            _, event, partition, *rest = operation
            command = make(self.db, event, *rest)
            if command is not None:
                self.events[event] = command
                self.logs[partition].append(command)
        elif name in OFFICE:
            asked = OFFICE[name](self.db, *operation[1:])
            if asked is not None:
                self.asked[operation[1]] = asked
                self.inbox[OFFICES[operation[1] % 2]].append([asked])
        else:
            getattr(self, f"do_{name}")(*operation[1:])

    def _publish(self, command: Command, which: int) -> None:
        self.logs[(USAGE if isinstance(command, Usage) else WORK)[which]].append(command)

    def do_again(self, event: int, which: int) -> None:
        if event in self.events:
            self._publish(self.events[event], which)

    def do_renamed(self, event: int, of: int, which: int) -> None:
        if of in self.events:
            self.events[event] = renamed(self.events[of], event)
            self._publish(self.events[event], which)

    def do_conflict(self, event: int, of: int, which: int) -> None:
        if of in self.events:
            command = twisted(self.events[of], event)
            self.events.setdefault(event, command)
            self._publish(command, which)

    def do_ask_again(self, event: int) -> None:
        if event in self.asked:
            self.inbox[OFFICES[0]].append([self.asked[event]])

    def do_sweep(self, event: int) -> None:
        found = sweeps(self.db, event)
        for n in range(0, len(found), 4):
            self.inbox[OFFICES[event % 2]].append(found[n : n + 4])

    def do_prices(self, document: int, increment: int, later: int) -> None:
        since = self.db.now + timedelta(seconds=later)
        self.db.apply_prices(document, increment, since)

    def do_run(self, process: int, steps: int) -> None:
        for _ in range(steps):
            if not self.step(process):
                return

    def do_crash(self, process: int, steps: int) -> None:
        self.do_run(process, steps)
        self.processes[process].close()
        self.processes[process] = self.start(process)

    def do_zombie(self, process: int, steps: int) -> None:
        """The group thinks that it is dead and gives its partition to another."""
        self.do_run(process, steps)
        self.zombies.append(self.processes[process])
        self.processes[process] = self.start(process)

    def do_clock(self, seconds: int) -> None:
        self.went_back |= seconds < 0
        self.db.now += timedelta(seconds=seconds)

    # The end of a history.

    def settle(self) -> None:
        """Let everything run until nothing is left to do; nobody dies."""
        busy, rounds = True, 0
        while busy:
            busy = sum(self.step(p) for p in PROCESSES) > 0 or bool(self.zombies)
            rounds += 1
            if rounds > ROUNDS:
                raise Broken("the processes do not come to rest")

    def close(self) -> None:
        for process in (*self.processes.values(), *self.zombies):
            process.close()

    def drain(self) -> None:
        """Settle, and sweep until there is nothing to sweep."""
        self.settle()
        for n in range(1, 20):
            moved = self.db.transactions
            self.do_sweep(10**9 + n * 10**6)
            self.settle()
            if self.db.transactions == moved:
                return
        raise Broken("each sweep finds something to do again")
