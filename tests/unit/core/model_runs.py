"""The second ledger's pipelines: who pays, holds, usage, progress."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

from tests.unit.core.model_money import Money, minus
from tests.unit.core.model_parts import (
    GRACE,
    PERIOD,
    STATUS,
    TTL,
    ZERO,
    Answer,
    Held,
    Refused,
    Run,
)
from tests.unit.core.model_people import People
from tests.unit.core.model_prices import PriceBook

from faregate.ledger.core import (
    CloseHold,
    Finished,
    PhaseCompleted,
    Release,
    Request,
    Reserve,
    Settle,
    Usage,
)

Payer = tuple[str, str | None]
"""An account, and the allocation that must cover it as well."""


class Runs:
    def __init__(self, money: Money, people: People) -> None:
        self.money = money
        self.people = people
        self.runs: dict[bytes, Run] = {}
        self.done: list[tuple[str, bytes, str, int | None]] = []

    def covered(self, owner: str, batch: bytes, phase: str) -> int | None:
        """For how many items the phase is done; None: for all of them. 0: it is not done."""
        found = [n for o, b, p, n in self.done if (o, b, p) == (owner, batch, phase)]
        return None if None in found else max((n for n in found if n is not None), default=0)

    # Who pays.

    def payers(self, user: str, org: str | None) -> list[Payer]:
        if org is None:
            return [(user, None)]
        if self.money.purse(org).policy == "allocated":
            return [(org, self.people.account(org, user))]
        return [(org, None), (user, None)]

    def can_pay(self, payer: Payer) -> Decimal:
        account, member = payer
        if member is not None:
            return min(self.money.available(account), self.money.available(member))
        allocated = self.money.purse(account).policy == "allocated"
        return ZERO if allocated else self.money.available(account)

    def who_pays(self, payers: list[Payer], required: Decimal) -> Payer | None:
        if not required:
            return payers[0]
        for payer in payers:
            if not self.money.owed(payer[0]) and self.can_pay(payer) >= required:
                return payer
        return None

    def why_not(self, payers: list[Payer], required: Decimal) -> str:
        account, member = payers[0]
        if any(self.money.owed(p) for p, _ in payers):
            return "debt_outstanding"
        if self.money.purse(account).policy == "allocated":
            if member is None or self.money.came_in(member) <= 0:
                return "no_allocation"
            if self.money.available(member) < required:
                return "allocation_exhausted"
        return "insufficient_credits"

    def denial(
        self, user: str, payers: list[Payer], reason: str, required: Decimal
    ) -> dict[str, Any]:
        facts: dict[str, Any] = {
            "reason": reason,
            "status": STATUS[reason],
            "required": required,
            "available": max(self.can_pay(p) for p in payers),
            "considered": [(p[0], self.can_pay(p)) for p in payers],
            "held": sum((self.money.held(p) for p, _ in payers), ZERO),
            "debts": [p for p, _ in payers if self.money.owed(p)],
        }
        if reason == "quota_exceeded":
            facts["calls"] = self.money.call_limit(user)
            facts["resets_at"] = (self.money.purse(user).since or self.money.now) + PERIOD
        if payers[0][1]:
            facts["allocation"] = self.money.available(payers[0][1])
        return facts

    # Holds.

    def is_open(self, hold: Held | None) -> bool:
        return hold is not None and hold.state != "closed" and self.money.now < hold.until

    def close(self, run: Run, reason: str) -> None:
        hold = run.hold
        if hold is None or hold.state == "closed":
            return
        hold.state = "closed"
        for subject in filter(None, (hold.payer, hold.member)):
            if not hold.left(subject):
                continue
            pins = {n: part for n, part in hold.pins[subject].items() if part}
            self.money.move(
                subject,
                "release",
                pins=minus(pins),
                hold=hold,
                version=hold.version,
                user=run.user,
                org=run.org,
                reason=reason,
            )
            self.money.expire(subject)
            self.money.pay_debt(subject)
            self.people.take_back(subject)

    def close_when_over(self, run: Run | None) -> None:
        if run and run.hold and not self.is_open(run.hold):
            self.close(run, "finished" if run.hold.state == "closing" else "expired")

    def close_when_settled(self, run: Run) -> None:
        hold = run.hold
        if hold is None or hold.state != "closing" or hold.expected is None:
            return
        if hold.settled >= hold.expected:
            self.close(run, "finished")

    def sweep(self, cmd: CloseHold) -> Answer | None:
        run = self.runs.get(cmd.pipeline_key)
        if run is None or run.hold is None or run.hold.state == "closed":
            return None
        if self.is_open(run.hold) or run.hold.number != int.from_bytes(cmd.hold_id, "big"):
            return None
        reason = "finished" if run.hold.state == "closing" else "expired"
        released = run.hold.left(run.hold.payer)
        self.close(run, reason)
        return Answer("closed", {"reason": reason, "released": released})

    # Requests.

    def request(self, cmd: Request) -> Answer:
        run = self.runs.get(cmd.pipeline_key)
        if run and self.is_open(run.hold) and (run.user, run.org) != (cmd.user, cmd.org):
            raise Refused("pipeline_conflict")
        self.people.welcome(cmd.user, "lazy")
        self.close_when_over(run)
        if run and run.hold and run.hold.state == "live":
            return self.let_in(run, run.hold.payer, run.hold.version)
        if run:
            self.close(run, "restarted")
        member = cmd.org and self.people.account(cmd.org, cmd.user)
        self.money.bring_up(cmd.org, cmd.user, member)
        book = self.money.book_at(self.money.now)
        phases = list(
            cmd.phases or (book.document["pipelines"].get(cmd.pipeline, ()) if book else ())
        )
        if not phases:
            return self._deny(cmd, "unknown_pipeline")
        owner = cmd.org or cmd.user
        pruned = []
        for phase in phases:
            items = self.covered(owner, cmd.batch_key, phase)
            if items is None or items >= cmd.items:
                pruned.append(phase)
        to_run = [p for p in phases if p not in pruned]
        prices = [book.run_price(p, cmd.items) if book else None for p in to_run]
        if book is None or None in prices:
            return self._deny(cmd, "unknown_price", to_run, pruned)
        required = sum((p for p in prices if p is not None), ZERO)
        return self._decide(cmd, book, to_run, pruned, required)

    def _decide(
        self, cmd: Request, book: PriceBook, to_run: list[str], pruned: list[str], required: Decimal
    ) -> Answer:
        if cmd.expires_at is not None and self.money.now >= cmd.expires_at:
            return self._deny(cmd, "request_expired", to_run, pruned, required)
        if cmd.org is None and not self.money.has_calls(cmd.user):
            return self._deny(cmd, "quota_exceeded", to_run, pruned, required)
        payers = self.payers(cmd.user, cmd.org)
        payer = self.who_pays(payers, required)
        if payer is None:
            return self._deny(cmd, self.why_not(payers, required), to_run, pruned, required)
        new = Run(cmd.user, cmd.org, cmd.items, to_run, pruned, None)
        self.runs[cmd.pipeline_key] = new
        if required:
            new.hold = self.hold(cmd, payer, required, book.version, TTL)
        calls = self.money.call(cmd.user) if cmd.org is None else 0
        return self.let_in(new, payer[0], book.version, calls)

    def hold(
        self,
        cmd: Request | Reserve,
        payer: Payer,
        amount: Decimal,
        version: int,
        ttl: timedelta,
    ) -> Held:
        account, member = payer
        until = self.money.now + ttl
        hold = Held(len(self.money.holds), account, amount, version, until, member)
        self.money.holds.append(hold)
        for subject in filter(None, payer):
            pins = self.money.choose(subject, amount)
            self.money.move(
                subject,
                "hold",
                pins=pins,
                hold=hold,
                version=version,
                user=cmd.user,
                org=cmd.org,
            )
        return hold

    def let_in(self, run: Run, payer: str, version: int, calls: int = 0) -> Answer:
        hold = run.hold
        facts = {
            "phases": list(run.phases),
            "pruned": list(run.pruned),
            "payer": payer,
            "reserved": hold.amount if hold else ZERO,
            "available": self.money.available(payer),
            "hold": hold.number if hold else None,
            "hold_expires_at": hold.until if hold else None,
            "price_version": version,
        }
        return Answer("initiated", facts, calls)

    def _deny(
        self,
        cmd: Request,
        reason: str,
        phases: list[str] | None = None,
        pruned: list[str] | None = None,
        required: Decimal = ZERO,
    ) -> Answer:
        payers = self.payers(cmd.user, cmd.org)
        facts = self.denial(cmd.user, payers, reason, required)
        return Answer("denied", {**facts, "phases": phases or [], "pruned": pruned or []})

    # Progress.

    def own_run(self, cmd: Usage | PhaseCompleted | Finished | Settle | Release) -> Run | None:
        run = self.runs.get(cmd.pipeline_key) if cmd.pipeline_key else None
        if run is None or run.hold is None:
            return run
        if cmd.user == run.user and cmd.org in {None, run.org}:
            return run
        if self.is_open(run.hold):
            raise Refused("payer_mismatch")
        return None

    def completed(self, cmd: PhaseCompleted) -> Answer:
        run = self.own_run(cmd)
        self.close_when_over(run)
        items = cmd.items if cmd.items is not None else run.items if run else None
        self.done.append((cmd.org or cmd.user, cmd.batch_key, cmd.phase, items))
        if run and run.hold and run.hold.state == "live":
            run.hold.until = max(run.hold.until, self.money.now + TTL)
        return Answer("recorded", {"phase": cmd.phase, "items": items})

    def finished(self, cmd: Finished) -> Answer:
        run = self.own_run(cmd)
        self.close_when_over(run)
        if run and run.hold and run.hold.state == "live":
            run.hold.state, run.hold.expected = "closing", cmd.usage_events
            run.hold.until = self.money.now + GRACE
            self.close_when_settled(run)
        if run and run.user == cmd.user and cmd.status == "succeeded":
            self.people.reach(cmd.user, "first_pipeline")
        return Answer("recorded", {"status": cmd.status, "usage_events": cmd.usage_events})
