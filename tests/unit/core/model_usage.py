"""The second ledger's charges: usage with and without a price, and what must be covered."""

from decimal import Decimal

from tests.unit.core.model_money import minus, plus
from tests.unit.core.model_parts import LIMIT, NEWEST, OLDEST, ZERO, Answer, Held, Refused, Run
from tests.unit.core.model_prices import PriceBook
from tests.unit.core.model_runs import Runs

from faregate.ledger.core import ChargeUnpriced, Usage

Price = tuple[int | None, Decimal | None, str | None]
"""The version, the cost (None: it has none), and the tier that it rests on."""


class Charges:
    def __init__(self, runs: Runs) -> None:
        self.runs = runs
        self.money = runs.money
        self.people = runs.people

    def usage(self, cmd: Usage) -> Answer:
        now = self.money.now
        if cmd.occurred_at < now - OLDEST or cmd.occurred_at > now + NEWEST:
            raise Refused("occurred_at_out_of_range")
        if cmd.model is not None:
            self.money.bring_up(cmd.user)
        run = self.runs.own_run(cmd)
        return self._use(cmd, run, self.price_of(cmd, run))

    def charge_late(self, cmd: ChargeUnpriced) -> Answer | None:
        usage, books = cmd.usage, self.money.books
        run = self.runs.own_run(usage)
        before = self.money.snapshot()
        if usage.model is not None:
            self.money.bring_up(usage.user)
        price = self.price_of(usage, run)
        then = self.money.book_at(usage.occurred_at)
        later = sorted(
            (b for b in books if usage.occurred_at < b.since <= self.money.now),
            key=lambda b: (b.since, b.version),
        )
        for book in [*([then] if then else []), *later]:
            if price[1] is None:
                price = self.by(book, usage)
        if price[1] is None:
            self.money.restore(before)
            return None
        return self._use(usage, run, price)

    def price_of(self, cmd: Usage, run: Run | None) -> Price:
        pinned = run.hold if run and self.runs.is_open(run.hold) else None
        book = self.money.book(pinned.version) if pinned else self.money.book_at(cmd.occurred_at)
        if cmd.byok:
            return book.version if book else None, ZERO, None
        return self.by(book, cmd) if book else (None, None, None)

    def by(self, book: PriceBook, cmd: Usage) -> Price:
        tier = self.people.tier(cmd.user)
        return book.version, book.price(cmd, tier), tier if book.depends_on_tier(cmd) else None

    def _use(self, cmd: Usage, run: Run | None, price: Price) -> Answer:
        cost = price[1]
        payer = run.hold.payer if run and run.hold else cmd.org or cmd.user
        owed = self.money.owed(payer)
        if cost is not None and (cost >= LIMIT or (cost and owed + cost >= LIMIT)):
            raise Refused("amount_out_of_range")
        self.people.welcome(cmd.user, "last_resort")
        self.runs.close_when_over(run)
        if cost is None:
            return self._keep(cmd, payer)
        self.charge(cmd, run, price)
        return Answer("charged", calls=self._count(cmd, run))

    def charge(self, cmd: Usage, run: Run | None, price: Price) -> None:
        """The payer pays, and the allocation goes down as much, or as much as there is of it."""
        cost = price[1] or ZERO
        hold = run.hold if run else None
        payer = hold.payer if hold else cmd.org or cmd.user
        member = hold.member if hold else None
        if hold is None and self.money.purse(payer).policy == "allocated":
            member = self.people.account(payer, cmd.user)
        reserved = min(hold.left(payer), cost) if hold else ZERO
        for subject in filter(None, (payer, member)):
            self.money.bring_up(subject)
            self._take(cmd, run, subject, price, reserved)
        if run and hold and hold.state != "closed":
            hold.settled += 1
            self.runs.close_when_settled(run)

    def _keep(self, cmd: Usage, payer: str) -> Answer:
        facts = {
            "account": payer,
            "balance": self.money.purse(payer).balance(),
            "available": self.money.available(payer),
            "debt": self.money.owed(payer),
            "phase": cmd.phase,
            "model": cmd.model,
        }
        return Answer("unpriced", facts)

    def _take(
        self, cmd: Usage, run: Run | None, subject: str, price: Price, reserved: Decimal
    ) -> None:
        """Out of what is pinned, then of what is free; the rest is debt, but not a member's."""
        version, cost, tier = price
        hold = run.hold if run else None
        rest = (cost or ZERO) - reserved
        taken = min(self.money.available(subject), rest)
        settled = self._first(subject, hold, reserved) if hold else {}
        free = self.money.choose(subject, taken)
        self.money.move(
            subject,
            "usage",
            minus(plus(settled.items(), free.items())),
            minus(settled),
            debt=ZERO if subject.startswith("member:") else rest - taken,
            hold=hold,
            version=version,
            user=cmd.user,
            org=cmd.org or (run.org if run and run.user == cmd.user else None),
            tier=tier,
        )

    def _first(self, subject: str, hold: Held, amount: Decimal) -> dict[int, Decimal]:
        """Of what a hold has pinned, that comes first which burns first."""
        parts = {}
        for lot in self.money.in_order(subject):
            part = min(hold.pins.get(subject, {}).get(lot.number, ZERO), amount)
            if part:
                parts[lot.number] = part
                amount -= part
        return parts

    def _count(self, cmd: Usage, run: Run | None) -> int:
        """A call counts, unless the user's own request of its pipeline did."""
        counted = run is not None and run.org is None and run.user == cmd.user
        if cmd.model is None or counted:
            return 0
        self.money.bring_up(cmd.user)
        return self.money.call(cmd.user)
