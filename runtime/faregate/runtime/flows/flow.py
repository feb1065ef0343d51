"""How a flow is written and played: steps in order, each with what it claims.

    class Individual(Flow):
        name, title = "individual", "Somebody alone"

        @step("10,000 credits are there", needed=True)
        async def _account(self) -> None:
            self.ada = await self.world.person("ada")
            await self.watch_user(self.ada)
            ...
            self.same("the balance", reply["credits_remaining"], 10_000, reply)

Accounts that are watched are read before and after each step, and compared with the ledger.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from time import perf_counter
from typing import Any, ClassVar

import asyncpg
import httpx

from faregate.ledger.database import TRANSIENT
from faregate.runtime.flows.books import Books
from faregate.runtime.flows.client import Aborted, NotHere, Person, Reply, said
from faregate.runtime.flows.records import Balance, Call, Check, FlowResult, StepResult, Where
from faregate.runtime.flows.world import NO_LEDGER, World

_PATIENCE_S = 20.0
_MICRO = 6
_FAULTS = (
    *TRANSIENT, asyncpg.PostgresError, httpx.HTTPError, LookupError, TypeError, ValueError,
    AttributeError,
)  # fmt: skip
"""What an answer that is not as it should be, or a server that is away, brings about."""


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a flow; the rest of the flow rests on one that is `needed`."""

    title: str
    needed: bool
    play: Callable[[Any], Awaitable[None]]


def step(title: str, *, needed: bool = False) -> Callable[[Callable[[Any], Awaitable[None]]], Step]:
    """Make a method a step of its flow."""

    def make(play: Callable[[Any], Awaitable[None]]) -> Step:
        return Step(title, needed, play)

    return make


@dataclass(frozen=True, slots=True)
class Watched:
    """How an account's balance is read, over HTTP and (twice) in the ledger: row, entries' sum."""

    http: Callable[[], Awaitable[float]]
    ledger: Callable[[Books], Awaitable[float]]
    summed: Callable[[Books], Awaitable[float]] | None


class Flow:
    """A flow; its steps are played in the order they are written. `independent` ones share nothing."""

    name: ClassVar[str]
    title: ClassVar[str]
    independent: ClassVar[bool] = False

    def __init__(self, world: World, on_step: Callable[[FlowResult, StepResult], None]) -> None:
        self.world = world
        self.result = FlowResult(self.name, self.title)
        self.now: StepResult
        self._on_step = on_step
        self._watched: dict[str, Watched] = {}
        self._began: datetime | None = None

    @classmethod
    def steps(cls) -> dict[str, Step]:
        """Give the steps by name."""
        made = {name: one for name, one in vars(cls).items() if isinstance(one, Step)}
        return {name.removeprefix("_"): one for name, one in made.items()}

    async def play(self) -> FlowResult:
        """Play all steps; what goes wrong is in the result."""
        stopped: str | None = None
        with suppress(*_FAULTS):  # steps will say so
            self._began = await self.world.books.now() if self.world.books else None
        for name, made in self.steps().items():
            went_through = await self._play(name, made, stopped)
            if made.needed and not went_through and stopped is None:
                stopped = made.title
        await self._play("proof", Flow.proof, None)
        return self.result

    async def _play(self, name: str, made: Step, stopped: str | None) -> bool:
        """Play one step; say whether it came to its end."""
        if self.independent:
            self._watched.clear()
        self.now = StepResult(name, made.title, datetime.now(UTC))
        self.result.steps.append(self.now)
        self.world.client.calls = self.now.calls
        began = perf_counter()
        came_through = False
        if stopped is not None:
            self.now.why.append(f"it rests on “{stopped}”")
        else:
            for label, watched in self._watched.items():
                self.now.balances.append(Balance(label, await self._read(watched)))
            came_through = await self._attempt(made.play, self)
            await self._attempt(self._compare)
        self.now.seconds = round(perf_counter() - began, 3)
        self.now.settle()
        self._on_step(self.result, self.now)
        return came_through

    async def _attempt(self, play: Callable[..., Awaitable[None]], *arguments: Any) -> bool:
        try:
            await play(*arguments)
        except NotHere as error:
            self.note(str(error))
        except Aborted as error:
            self._claim(error.what, error.expected, error.came, ok=False, call=error.call)
        except _FAULTS as error:
            last = self.now.calls[-1] if self.now.calls else None
            came = f"{type(error).__name__}: {error}".rstrip(": ")
            self._claim("the step can be made", "no error", came, ok=False, call=last)
        else:
            return True
        return False

    async def _read(self, watched: Watched) -> float | None:
        try:
            return await watched.http()
        except (Aborted, *_FAULTS):
            return None

    async def _compare(self) -> None:
        """Read what is watched once more; HTTP must say what the ledger says."""
        books = self.world.books
        if self._watched and books is None:
            self.note(NO_LEDGER)
        for balance in self.now.balances:
            label, watched = balance.account, self._watched[balance.account]
            balance.after = await watched.http()
            call = self.now.calls[-1]
            if books is None:
                continue
            balance.ledger = await watched.ledger(books)
            self._agrees(f"{label}: the ledger's balance", balance.ledger, balance.after, call)
            if watched.summed is not None:
                total = await watched.summed(books)
                self._agrees(f"{label}: the ledger's entries, summed", total, balance.after, call)

    def _agrees(self, what: str, expected: float, came: float, call: Call) -> None:
        ok = _are_same(came, expected)
        self._claim(f"{what}, is shown", expected, came, ok=ok, where="ledger", call=call)

    @step("The ledger proves itself, and everything was announced")
    async def proof(self) -> None:
        """Look at the whole of what the flow has written."""
        books = self.books()
        announced = await books.announced(_PATIENCE_S)
        self.same("everything was published to Kafka", announced, expected=True, where="ledger")
        if self._began is None:
            return
        found = await books.verified(self._began)
        rows = [f"{f.kind}: {f.row}: {f.message}" for f in found.findings[:5]]
        self.same("`faregate verify` finds", rows, [], where="ledger")

    # What steps say.

    def books(self) -> Books:
        """Give the ledger. Raises NotHere."""
        if self.world.books is None:
            raise NotHere(NO_LEDGER)
        return self.world.books

    def note(self, why: str) -> None:
        """Say what could not be done: the step is partial at best."""
        if why not in self.now.why:
            self.now.why.append(why)

    def same(
        self, what: str, came: Any, expected: Any, reply: Reply | None = None, where: Where = "http"
    ) -> bool:
        """Claim that two values are the same; amounts to the micro-credit."""
        ok = _are_same(came, expected)
        self._claim(what, expected, came, ok=ok, where=where, call=reply.call if reply else None)
        return ok

    def holds(self, what: str, came: Any, reply: Reply | None = None, *, ok: bool) -> None:
        """Claim anything else; `what` says it whole."""
        self._claim(what, "so", came, ok=ok, call=reply.call if reply else None)

    def answered(self, reply: Reply, status: int = 200) -> Reply:
        """Claim a status that the rest of the step rests on. Raises Aborted for another."""
        what = f"{reply.call.method} {reply.call.path} answers"
        if reply.status != status:
            raise Aborted(what, status, said(reply), reply.call)
        self._claim(what, status, reply.status, ok=True, call=reply.call)
        return reply

    def refused(self, reply: Reply, status: int, reason: str) -> None:
        """Claim a refusal, with what would help."""
        what = f"{reply.call.method} {reply.call.path} is refused"
        if self.same(what, said(reply), f"{status} {reason}", reply):
            helps = reply.json.get("help")
            self.holds("the refusal says what would help", helps, reply, ok=bool(helps))

    def _claim(
        self, what: str, expected: Any, came: Any, *, ok: bool, where: Where = "http",
        call: Call | None = None,
    ) -> None:  # fmt: skip
        self.now.checks.append(Check(what, expected, came, ok, where, call))

    # Accounts that are read before and after each step.

    async def watch_user(self, person: Person) -> None:
        """Watch somebody's own account."""

        async def http() -> float:
            found = await person.get("/api/v1/credits/balance")
            return float(found["credits_remaining"]) + float(found["held"])

        await self._watch(person.name, person.subject, http)

    async def watch_org(self, label: str, member: Person, org_id: str) -> None:
        """Watch an organization's account."""

        async def http() -> float:
            found = await member.get(f"/api/v1/credits/organization/{org_id}")
            return float(found["total_credits"])

        await self._watch(label, f"org:{org_id}", http)

    async def watch_allocation(self, label: str, member: Person, org_id: str) -> None:
        """Watch what is left of a member's allocation."""

        async def http() -> float:
            place = f"/api/v1/credits/organization/{org_id}/my-allocation"
            return float((await member.get(place))["remaining"])

        async def ledger(books: Books) -> float:
            return await books.remaining(f"org:{org_id}", member.subject)

        await self._begin(label, Watched(http, ledger, None))

    async def _watch(self, label: str, subject: str, http: Callable[[], Awaitable[float]]) -> None:
        async def ledger(books: Books) -> float:
            return await books.balance(subject)

        async def summed(books: Books) -> float:
            return (await books.sums(subject)).balance

        await self._begin(label, Watched(http, ledger, summed))

    async def _begin(self, label: str, watched: Watched) -> None:
        self._watched[label] = watched
        self.now.balances.append(Balance(label, await self._read(watched)))


def _are_same(one: Any, other: Any) -> bool:
    """Compare values; amounts to the micro-credit."""
    if isinstance(one, float) or isinstance(other, float):
        numbers = isinstance(one, int | float) and isinstance(other, int | float)
        return numbers and round(one - other, _MICRO) == 0
    return bool(one == other)
