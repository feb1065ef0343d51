"""What a caller of the second ledger asks for at once: deduct, reserve, settle, release."""

from decimal import Decimal

from tests.unit.core.model_parts import LIMIT, TTL, ZERO, Answer, Refused, Run, credits_of
from tests.unit.core.model_runs import Payer
from tests.unit.core.model_usage import Charges, Price

from faregate.ledger.core import Deduct, Release, Reserve, Settle, Usage


class Asked:
    def __init__(self, charges: Charges) -> None:
        self.charges = charges
        self.runs = charges.runs
        self.money = charges.money
        self.people = charges.people

    def deduct(self, cmd: Deduct) -> Answer:
        """All of it or nothing."""
        cost = credits_of(cmd.cost or 0)
        payers = self._ready(cmd, "last_resort")
        reason, payer = "quota_exceeded", None
        if not cmd.counts or self.money.has_calls(cmd.user):
            payer = self.runs.who_pays(payers, cost)
            reason = "" if payer else self.runs.why_not(payers, cost)
        if payer is None:
            return Answer("refused", self.runs.denial(cmd.user, payers, reason, cost))
        for subject in filter(None, payer):
            self.money.take(
                subject,
                "usage",
                cost,
                reason=cmd.reason,
                user=cmd.user,
                org=cmd.org,
                version=cmd.price_version,
            )
        calls = self.money.call(cmd.user) if cmd.counts else 0
        return Answer("charged", {"payer": payer[0], "cost": cost}, calls)

    def _ready(self, cmd: Deduct | Reserve, layer: str) -> list[Payer]:
        self.people.welcome(cmd.user, layer)
        self.money.bring_up(cmd.org, cmd.user, cmd.org and self.people.account(cmd.org, cmd.user))
        return self.runs.payers(cmd.user, cmd.org)

    def reserve(self, cmd: Reserve) -> Answer:
        if cmd.pipeline_key in self.runs.runs:
            raise Refused("hold_conflict")
        payers = self._ready(cmd, "lazy")
        book = self.money.book_at(self.money.now)
        cost = None if cmd.amount is None else credits_of(cmd.amount)
        if cmd.amount is None and cmd.usage and book:
            cost = ZERO if cmd.usage.byok else self.charges.by(book, cmd.usage)[1]
        if book is None or cost is None:
            return self._refused(cmd, payers, "unknown_price")
        if cost >= LIMIT:
            raise Refused("amount_out_of_range")
        if cmd.counts and not self.money.has_calls(cmd.user):
            return self._refused(cmd, payers, "quota_exceeded", cost)
        payer = self.runs.who_pays(payers, cost)
        if payer is None:
            return self._refused(cmd, payers, self.runs.why_not(payers, cost), cost)
        run = Run(cmd.user, cmd.org, 1, [], [], None)
        self.runs.runs[cmd.pipeline_key] = run
        if cost:
            run.hold = self.runs.hold(cmd, payer, cost, book.version, cmd.ttl or TTL)
        calls = self.money.call(cmd.user) if cmd.counts else 0
        facts = self.runs.let_in(run, payer[0], book.version).facts
        return Answer("reserved", facts, calls)

    def _refused(
        self, cmd: Reserve, payers: list[Payer], reason: str, cost: Decimal = ZERO
    ) -> Answer:
        return Answer("refused", self.runs.denial(cmd.user, payers, reason, cost))

    def _of_caller(self, cmd: Settle | Release) -> Run:
        run = self.runs.own_run(cmd)
        if run is None or (run.user, run.org) != (cmd.user, cmd.org):
            raise Refused("unknown_hold")
        return run

    def settle(self, cmd: Settle) -> Answer:
        run = self._of_caller(cmd)
        hold = run.hold
        if hold and hold.state == "closed" and hold.expected in range(hold.settled + 1):
            raise Refused("hold_settled")
        if run.is_over:
            raise Refused("hold_settled")
        used = cmd.usage or Usage(cmd.identity, cmd.user, cmd.org, cmd.pipeline_key, self.money.now)
        if cmd.usage is not None:
            self.money.bring_up(cmd.user)
        price = self._price(cmd, used, run)
        if price[1] is None:
            raise Refused("unknown_price")
        if cmd.within:
            left = run.hold.left(run.hold.payer) if run.hold and self.runs.is_open(run.hold) else 0
            if price[1] > left:
                raise Refused("beyond_hold")
        payer = run.hold.payer if run.hold else cmd.org or cmd.user
        if self.money.owed(payer) + price[1] >= LIMIT:
            raise Refused("amount_out_of_range")
        self.runs.close_when_over(run)
        self.charges.charge(used, run, price)
        if cmd.final:
            self.runs.close(run, "settled")
            if run.hold:
                run.hold.expected = run.hold.settled
            else:
                run.is_over = True
        facts = {"payer": payer, "cost": price[1], "price_version": price[0]}
        return Answer("charged", facts)

    def _price(self, cmd: Settle, used: Usage, run: Run) -> Price:
        if cmd.cost is None:
            return self.charges.price_of(used, run)
        return run.hold.version if run.hold else None, credits_of(cmd.cost), None

    def release(self, cmd: Release) -> Answer:
        run = self._of_caller(cmd)
        left = run.hold.left(run.hold.payer) if run.hold else ZERO
        self.runs.close(run, "released")
        return Answer("released", {"released": left})
