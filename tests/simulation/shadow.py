"""What the checks remember: a second ledger, kept by entries and by what commands must do."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tests.simulation.books import Price, in_force
from tests.simulation.database import Broken

from faregate.ledger.core import Rules
from faregate.ledger.core.accounts import PERIOD
from faregate.ledger.core.rebuild import Rebuilt


@dataclass(slots=True)
class Standing:
    """What an account is besides its credits: tier, period, quota, policy, role, alerts."""

    tier: str = "free"
    start: datetime | None = None
    next_tier: str | None = None
    calls: int = 0
    limit: int | None = None
    policy: str = "pool"
    role: str | None = None
    low_micro: int | None = None
    low_percent: int | None = None
    top: int = 0
    alerted: set[str] = field(default_factory=set)
    welcome: str = ""
    verified: bool = False
    registered: bool = False
    milestones: set[str] = field(default_factory=set)
    withheld: set[str] = field(default_factory=set)
    tier_grant: int | None = None
    replaced: int | None = None
    """The grant of the tier or period before."""


@dataclass(slots=True)
class Run:
    """A pipeline that was let in, with its hold."""

    cause: bytes
    user: str
    org: str | None
    items: int
    phases: list[str]
    pruned: list[str]
    hold: bytes | None = None
    payer: str = ""
    member: str | None = None
    version: int = 0
    state: str = "none"
    until: datetime | None = None
    settled: int = 0
    expected: int | None = None
    asked_for: bool = False
    """A hold that a caller has asked for at once."""

    def is_open(self, now: datetime) -> bool:
        return self.until is not None and self.state != "closed" and now < self.until

    @property
    def settled_for_good(self) -> bool:
        """Whether it is closed and no usage of it is to come."""
        return self.state == "closed" and self.expected in range(self.settled + 1)

    def is_due(self, now: datetime) -> bool:
        return self.until is not None and self.state != "closed" and now >= self.until

    def is_of(self, user: str, org: str | None) -> bool:
        return user == self.user and org in {None, self.org}

    def is_settled(self) -> bool:
        return (
            self.state == "closing" and self.expected is not None and self.settled >= self.expected
        )


@dataclass(slots=True)
class Shadow:
    """All accounts and pipelines as they must be, at `now` of the batch in hand."""

    rules: Rules
    prices: list[Price]
    members: dict[tuple[str, str], str]
    now: datetime
    accounts: dict[str, Rebuilt] = field(default_factory=dict)
    standings: dict[str, Standing] = field(default_factory=dict)
    runs: dict[bytes, Run] = field(default_factory=dict)
    by_hold: dict[bytes, Run] = field(default_factory=dict)
    done: dict[tuple[str, bytes], dict[str, int | None]] = field(default_factory=dict)
    effects: dict[bytes, bytes] = field(default_factory=dict)
    """Fingerprints of what was accepted, by event and by usage."""
    refunded: set[int] = field(default_factory=set)
    unpriced: dict[int, Any] = field(default_factory=dict)
    changing: str | None = None
    """The tier that the command in hand puts an account on at once."""
    totals: dict[str, int] = field(default_factory=dict)
    """Micro-credits that moved balances of orgs and users, by kind of entry."""

    def account(self, subject: str) -> Rebuilt:
        found = self.accounts.get(subject)
        if found is None:
            found = self.accounts[subject] = Rebuilt(subject)
        return found

    def standing(self, subject: str) -> Standing:
        found = self.standings.get(subject)
        if found is None:
            found = self.standings[subject] = Standing()
        return found

    def price(self) -> Price | None:
        return in_force(self.prices, self.now)

    def offer(self, tier: str) -> tuple[int, int | None, bool]:
        """Credits, calls, and whether it renews with credits."""
        price = self.price()
        included, calls, renews = price.tier(tier) if price else (0, None, False)
        return included, calls, renews and included > 0

    # Time.

    def member(self, org: str, user: str) -> str | None:
        """The allocation of who is a member now."""
        found = self.members.get((org, user))
        gone = found is None or self.standing(found).role == "removed"
        return None if gone else found

    def next_period(self, subject: str) -> tuple[datetime, str, int, str] | None:
        """The period that should have begun next and gives credits: start, tier, credits, why."""
        it = self.standing(subject)
        if it.start is None or self.now < it.start + PERIOD:
            return None
        tier = it.next_tier or it.tier
        included, _, gives = self.offer(tier)
        if gives:
            return it.start + PERIOD, tier, included, "renewal"
        once = it.next_tier is not None and included > 0
        return (it.start + PERIOD, tier, included, "tier_change") if once else None

    def begin(self, subject: str, tier: str, start: datetime) -> Standing:
        it = self.standing(subject)
        it.replaced = it.tier_grant
        it.tier, it.start, it.next_tier, it.calls, it.tier_grant = tier, start, None, 0, None
        return it

    def refreshed(self, subject: str) -> None:
        """From here on the account must be as of now: nothing to renew, nothing to expire."""
        it, account = self.standing(subject), self.account(subject)
        while it.start is not None and self.now >= it.start + PERIOD:
            if self.next_period(subject) is not None:
                raise Broken(f"{subject}: a period's credits are missing")
            self.begin(subject, it.next_tier or it.tier, it.start + PERIOD)
        for lot in account.lots.values():
            if lot.expires_at and lot.expires_at <= self.now and lot.remaining > lot.held:
                raise Broken(f"{subject}: grant {lot.number} has expired and could pay")

    # Who comes for the first time.

    def welcome_is_due(self, user: str, *, waits: bool = True) -> bool:
        it = self.standing(user)
        if self.rules.provisioning != "auto" or it.welcome == "given":
            return False
        if not self.is_new(user):
            return False
        if self.rules.welcome.verified_only and not it.verified:
            it.welcome = "pending" if waits else it.welcome
            return False
        return True

    def is_new(self, user: str) -> bool:
        it = self.standing(user)
        return it.welcome == "pending" or (not self.account(user).sequence and it.tier == "free")

    def reach(self, user: str, milestone: str) -> None:
        """A milestone was reached: its part has come by now, or is noted for later."""
        it = self.standing(user)
        if milestone not in dict(self.rules.welcome.milestones) or milestone in it.milestones:
            return
        if it.welcome == "given":
            if milestone in it.withheld:
                raise Broken(f"{user}: {milestone} did not pay")
        elif self.rules.provisioning == "auto" and self.is_new(user):
            it.milestones.add(milestone)

    # Calls.

    def limit(self, user: str) -> int | None:
        it = self.standing(user)
        return it.limit if it.limit is not None else self.offer(it.tier)[1]

    def count(self, user: str) -> None:
        it = self.standing(user)
        it.calls += 1
        it.start = it.start or self.now
