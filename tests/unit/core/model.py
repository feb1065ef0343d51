"""A second ledger, written from the contract alone: slow, plain, one command at a time.

Amounts are Decimal credits. What the core keeps as a running value is counted anew here from what
it means: `held` is the sum of what is left of open holds, pairs are really paired.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import combinations
from typing import Any

from faregate.ledger.core import (
    ChargeUnpriced,
    CloseHold,
    Command,
    Finished,
    Grant,
    Identity,
    PhaseCompleted,
    Request,
    SetBalance,
    Usage,
)

ZERO = Decimal(0)
LIMIT = Decimal(10) ** 9
TTL = timedelta(seconds=3600)
GRACE = timedelta(seconds=30)
OLDEST = timedelta(days=35)
NEWEST = timedelta(minutes=5)
WELCOME = Decimal(5)
STATUS = {
    "unknown_pipeline": 422,
    "unknown_price": 422,
    "request_expired": 410,
    "debt_outstanding": 402,
    "insufficient_credits": 402,
}


def credits_of(micro: int) -> Decimal:
    return Decimal(micro) / 1_000_000


class Refused(Exception):
    """To the DLQ, and no trace of it in the ledger."""


@dataclass(frozen=True)
class Answer:
    """What a command came to: its result, and the facts that are announced."""

    result: str
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Move:
    """What one ledger entry must say."""

    subject: str
    kind: str
    amount: Decimal = ZERO
    held: Decimal = ZERO
    debt: Decimal = ZERO
    hold: int | None = None
    version: int | None = None
    user: str | None = None
    org: str | None = None


@dataclass
class Held:
    """A hold, numbered in the order in which holds were made."""

    number: int
    payer: str
    amount: Decimal
    left: Decimal
    version: int
    until: datetime
    state: str = "live"
    settled: int = 0
    expected: int | None = None


@dataclass
class Run:
    """A pipeline that was let in."""

    user: str
    org: str | None
    items: int
    phases: list[str]
    pruned: list[str]
    hold: Held | None


@dataclass
class PriceBook:
    version: int
    since: datetime
    document: Mapping[str, Any]

    def price(self, phase: str | None, units: int) -> Decimal | None:
        priced = self.document["phases"].get(phase)
        return None if priced is None else Decimal(str(priced["credits"])) * units

    def run_price(self, phase: str, items: int) -> Decimal | None:
        if phase not in self.document["phases"]:
            return None
        essays = range(items)
        per = self.document["phases"][phase]["per"]
        units = {"item": len(essays), "pair": len(list(combinations(essays, 2))), "flat": 1}[per]
        return self.price(phase, units)


class Model:
    def __init__(self, *, provisioning: str = "manual") -> None:
        self.provisioning = provisioning
        self.balance: dict[str, Decimal] = {}
        self.debt: dict[str, Decimal] = {}
        self.touched: set[str] = set()
        self.books: list[PriceBook] = []
        self.runs: dict[bytes, Run] = {}
        self.holds: list[Held] = []
        self.done: list[tuple[str, bytes, str, int | None]] = []
        self.events: dict[bytes, tuple[bytes, Answer]] = {}
        self.usages: dict[bytes, tuple[bytes, Answer]] = {}
        self.moves: list[Move] = []
        self.now = datetime.min.replace(tzinfo=UTC)

    # What is asked about an account.

    def held(self, subject: str) -> Decimal:
        return sum((h.left for h in self.holds if h.payer == subject), ZERO)

    def available(self, subject: str) -> Decimal:
        return self.balance.get(subject, ZERO) - self.held(subject)

    def owed(self, subject: str) -> Decimal:
        return self.debt.get(subject, ZERO)

    def covered(self, owner: str, batch: bytes, phase: str) -> int | None:
        """For how many items the phase is done; None: for all of them. 0: it is not done."""
        found = [n for o, b, p, n in self.done if (o, b, p) == (owner, batch, phase)]
        return None if None in found else max((n for n in found if n is not None), default=0)

    # One command.

    def apply(self, command: Command, now: datetime) -> Answer | None:
        """Give what becomes of `command`; `moves` then has the entries it must write."""
        self.now, self.moves = now, []
        try:
            earlier = self._earlier(command.identity)
            if earlier is not None:
                return earlier
            answer = self._accept(command)
        except Refused as refused:
            return Answer("rejected", {"code": str(refused)})
        if answer is not None:
            kept = (command.identity.fingerprint, Answer("duplicate", {"of": answer.result}))
            self.events[command.identity.event_key] = kept
            if command.identity.usage_key is not None:
                self.usages[command.identity.usage_key] = kept
        return answer

    def _earlier(self, identity: Identity) -> Answer | None:
        found = self.events.get(identity.event_key)
        if found is None and identity.usage_key is not None:
            found = self.usages.get(identity.usage_key)
        if found is None:
            return None
        if found[0] != identity.fingerprint:
            raise Refused("idempotency_conflict")
        return found[1]

    def _accept(self, command: Command) -> Answer | None:  # noqa: PLR0911
        match command:
            case Request():
                return self._request(command)
            case Usage():
                return self._usage(command)
            case PhaseCompleted():
                return self._completed(command)
            case Finished():
                return self._finished(command)
            case SetBalance():
                return self._set(command)
            case Grant():
                return self._grant(command)
            case CloseHold():
                return self._sweep(command)
            case ChargeUnpriced():
                return self._charge_late(command)

    # Money moves here only.

    def _move(self, move: Move) -> None:
        self.touched.add(move.subject)
        self.balance[move.subject] = self.balance.get(move.subject, ZERO) + move.amount
        self.debt[move.subject] = self.owed(move.subject) + move.debt
        self.moves.append(move)

    def _pay_debt(self, subject: str) -> None:
        paid = min(self.owed(subject), self.available(subject))
        if paid:
            self._move(Move(subject, "debt", -paid, debt=-paid))

    def _welcome(self, user: str) -> None:
        if self.provisioning == "auto" and user not in self.touched:
            self._move(Move(user, "purchase", WELCOME))

    # Prices.

    def _book_at(self, at: datetime) -> PriceBook | None:
        best = None
        for book in sorted(self.books, key=lambda b: b.version):
            if book.since <= at and (best is None or book.since >= best.since):
                best = book
        return best

    def _book(self, version: int) -> PriceBook:
        return next(b for b in self.books if b.version == version)

    # Holds.

    def _is_open(self, hold: Held | None) -> bool:
        return hold is not None and hold.state != "closed" and self.now < hold.until

    def _close(self, run: Run) -> None:
        hold = run.hold
        if hold is None or hold.state == "closed":
            return
        left, hold.left, hold.state = hold.left, ZERO, "closed"
        if left:
            self._move(
                Move(
                    hold.payer,
                    "release",
                    held=-left,
                    hold=hold.number,
                    version=hold.version,
                    user=run.user,
                    org=run.org,
                )
            )
            self._pay_debt(hold.payer)

    def _close_when_over(self, run: Run | None) -> None:
        if run and run.hold and not self._is_open(run.hold):
            self._close(run)

    def _close_when_settled(self, run: Run) -> None:
        hold = run.hold
        if hold is None or hold.state != "closing" or hold.expected is None:
            return
        if hold.settled >= hold.expected:
            self._close(run)

    def _sweep(self, cmd: CloseHold) -> Answer | None:
        run = self.runs.get(cmd.pipeline_key)
        if run is None or run.hold is None or run.hold.state == "closed":
            return None
        if self._is_open(run.hold) or run.hold.number != int.from_bytes(cmd.hold_id, "big"):
            return None
        reason = "finished" if run.hold.state == "closing" else "expired"
        released = run.hold.left
        self._close(run)
        return Answer("closed", {"reason": reason, "released": released})

    # Requests.

    def _request(self, cmd: Request) -> Answer:
        run = self.runs.get(cmd.pipeline_key)
        if run and self._is_open(run.hold) and (run.user, run.org) != (cmd.user, cmd.org):
            raise Refused("pipeline_conflict")
        self._welcome(cmd.user)
        self._close_when_over(run)
        if run and run.hold and run.hold.state == "live":
            return self._let_in(run, run.hold.payer, run.hold.version)
        if run:
            self._close(run)
        payers = [cmd.user] if cmd.org is None else [cmd.org, cmd.user]
        book = self._book_at(self.now)
        phases = list(
            cmd.phases or (book.document["pipelines"].get(cmd.pipeline, ()) if book else ())
        )
        if not phases:
            return self._deny("unknown_pipeline", payers)
        owner = cmd.org or cmd.user
        pruned = []
        for phase in phases:
            items = self.covered(owner, cmd.batch_key, phase)
            if items is None or items >= cmd.items:
                pruned.append(phase)
        to_run = [p for p in phases if p not in pruned]
        prices = [book.run_price(p, cmd.items) if book else None for p in to_run]
        if book is None or None in prices:
            return self._deny("unknown_price", payers, to_run, pruned)
        required = sum((p for p in prices if p is not None), ZERO)
        if cmd.expires_at is not None and self.now >= cmd.expires_at:
            return self._deny("request_expired", payers, to_run, pruned, required)
        payer = self._who_pays(payers, required)
        if payer is None:
            in_debt = any(self.owed(p) for p in payers)
            reason = "debt_outstanding" if in_debt else "insufficient_credits"
            return self._deny(reason, payers, to_run, pruned, required)
        new = Run(cmd.user, cmd.org, cmd.items, to_run, pruned, None)
        self.runs[cmd.pipeline_key] = new
        if required:
            new.hold = self._hold(cmd, payer, required, book.version)
        return self._let_in(new, payer, book.version)

    def _who_pays(self, payers: list[str], required: Decimal) -> str | None:
        if not required:
            return payers[0]
        for payer in payers:
            if not self.owed(payer) and self.available(payer) >= required:
                return payer
        return None

    def _hold(self, cmd: Request, payer: str, amount: Decimal, version: int) -> Held:
        hold = Held(len(self.holds), payer, amount, amount, version, self.now + TTL)
        self.holds.append(hold)
        move = Move(
            payer,
            "hold",
            held=amount,
            hold=hold.number,
            version=version,
            user=cmd.user,
            org=cmd.org,
        )
        self._move(move)
        return hold

    def _let_in(self, run: Run, payer: str, version: int) -> Answer:
        hold = run.hold
        return Answer(
            "initiated",
            {
                "phases": list(run.phases),
                "pruned": list(run.pruned),
                "payer": payer,
                "reserved": hold.amount if hold else ZERO,
                "available": self.available(payer),
                "hold": hold.number if hold else None,
                "hold_expires_at": hold.until if hold else None,
                "price_version": version,
            },
        )

    def _deny(
        self,
        reason: str,
        payers: list[str],
        phases: list[str] | None = None,
        pruned: list[str] | None = None,
        required: Decimal = ZERO,
    ) -> Answer:
        return Answer(
            "denied",
            {
                "reason": reason,
                "status": STATUS[reason],
                "phases": phases or [],
                "pruned": pruned or [],
                "required": required,
                "available": max(self.available(p) for p in payers),
                "considered": [(p, self.available(p)) for p in payers],
                "held": sum((self.held(p) for p in payers), ZERO),
                "debts": [p for p in payers if self.owed(p)],
            },
        )

    # Progress.

    def _own_run(self, cmd: Usage | PhaseCompleted | Finished) -> Run | None:
        run = self.runs.get(cmd.pipeline_key) if cmd.pipeline_key else None
        if run and run.hold and (cmd.user != run.user or cmd.org not in {None, run.org}):
            if self._is_open(run.hold):
                raise Refused("payer_mismatch")
            return None
        return run

    def _completed(self, cmd: PhaseCompleted) -> Answer:
        run = self._own_run(cmd)
        self._close_when_over(run)
        items = cmd.items
        if items is None and run:
            items = run.items
        self.done.append((cmd.org or cmd.user, cmd.batch_key, cmd.phase, items))
        if run and run.hold and run.hold.state == "live":
            run.hold.until = max(run.hold.until, self.now + TTL)
        return Answer("recorded", {"phase": cmd.phase, "items": items})

    def _finished(self, cmd: Finished) -> Answer:
        run = self._own_run(cmd)
        self._close_when_over(run)
        if run and run.hold and run.hold.state == "live":
            run.hold.state, run.hold.until = "closing", self.now + GRACE
            run.hold.expected = cmd.usage_events
            self._close_when_settled(run)
        return Answer("recorded", {"status": cmd.status, "usage_events": cmd.usage_events})

    # Usage.

    def _usage(self, cmd: Usage) -> Answer:
        if cmd.occurred_at < self.now - OLDEST or cmd.occurred_at > self.now + NEWEST:
            raise Refused("occurred_at_out_of_range")
        return self._use(cmd)

    def _charge_late(self, cmd: ChargeUnpriced) -> Answer | None:
        """Charge by the hold's prices, else those of its time, else the first that came later."""
        usage = cmd.usage
        price = self._price_of(usage, self._own_run(usage))
        then = self._book_at(usage.occurred_at)
        later = sorted(
            (b for b in self.books if usage.occurred_at < b.since <= self.now),
            key=lambda b: (b.since, b.version),
        )
        for book in [*([then] if then else []), *later]:
            if price[1] is None:
                price = book.version, book.price(usage.phase, usage.units or 0)
        return None if price[1] is None else self._use(usage, price)

    def _price_of(self, cmd: Usage, run: Run | None) -> tuple[int | None, Decimal | None]:
        pinned = run.hold if run and self._is_open(run.hold) else None
        book = self._book(pinned.version) if pinned else self._book_at(cmd.occurred_at)
        version = book.version if book else None
        if cmd.byok:
            return version, ZERO
        return version, book.price(cmd.phase, cmd.units or 0) if book else None

    def _use(self, cmd: Usage, price: tuple[int | None, Decimal | None] | None = None) -> Answer:
        run = self._own_run(cmd)
        version, cost = price or self._price_of(cmd, run)
        payer = run.hold.payer if run and run.hold else cmd.org or cmd.user
        if cost is not None and (cost >= LIMIT or (cost and self.owed(payer) + cost >= LIMIT)):
            raise Refused("amount_out_of_range")
        self._welcome(cmd.user)
        self._close_when_over(run)
        hold = run.hold if run else None
        payer = hold.payer if hold else cmd.org or cmd.user
        if cost is None:
            facts = {
                "account": payer,
                "balance": self.balance.get(payer, ZERO),
                "available": self.available(payer),
                "debt": self.owed(payer),
                "phase": cmd.phase,
                "model": cmd.model,
            }
            return Answer("unpriced", facts)
        free = self.available(payer)
        reserved = ZERO
        if hold and hold.state != "closed":
            reserved = min(hold.left, cost)
            hold.left -= reserved
            hold.settled += 1
        taken = min(free, cost - reserved)
        self._move(
            Move(
                payer,
                "usage",
                amount=-reserved - taken,
                held=-reserved,
                debt=cost - reserved - taken,
                hold=hold.number if hold else None,
                version=version,
                user=cmd.user,
                org=cmd.org or (run.org if run and run.user == cmd.user else None),
            )
        )
        if run:
            self._close_when_settled(run)
        return Answer("charged")

    # Operations.

    def _set(self, cmd: SetBalance) -> Answer:
        target = credits_of(cmd.target)
        if target < self.held(cmd.subject):
            raise Refused("below_held")
        change = target - self.balance.get(cmd.subject, ZERO)
        self._move(Move(cmd.subject, "adjustment", change, debt=-self.owed(cmd.subject)))
        return Answer("set", {"account": cmd.subject})

    def _grant(self, cmd: Grant) -> Answer:
        amount = credits_of(cmd.amount)
        if self.balance.get(cmd.subject, ZERO) + amount >= LIMIT:
            raise Refused("amount_out_of_range")
        self._move(Move(cmd.subject, cmd.kind, amount))
        self._pay_debt(cmd.subject)
        return Answer("granted", {"account": cmd.subject})
