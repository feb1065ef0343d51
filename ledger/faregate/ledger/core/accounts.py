"""An account, the grants that its balance is made of, and the plan that it is on.

Accounts are named by their subject: `org:<id>`, `user:<id>`, or `member:<n>/<n>` for what an org
allocated to a member. Amounts are micro-credits.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Literal

from faregate.events.records import dataclass

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NEVER = datetime(9999, 12, 31, tzinfo=UTC)
PERIOD = timedelta(days=30)
"""A tier's period (contract: Tiers)."""

DEFAULT_PRIORITY = 100

Policy = Literal["pool", "allocated"]
Role = Literal["admin", "member", "removed"]
Delta = tuple[int, int, int]
"""What an entry does to one grant: its number, change of what remains, change of what is held."""


class LedgerFault(Exception):
    """The core was about to break one of its own invariants. A bug: nothing is written."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What is left of credits that came in together. `held` is pinned by live holds.

    `number` is the sequence of the entry that made it, so an account and a number name a grant.
    """

    number: int
    remaining: int
    held: int = 0
    priority: int = DEFAULT_PRIORITY
    expires_at: datetime | None = None

    @property
    def free(self) -> int:
        """What is left and not pinned."""
        return self.remaining - self.held

    @property
    def burn_order(self) -> tuple[int, datetime, int]:
        """Lower priority number first, then soonest expiry, then oldest (contract: Who pays)."""
        return (self.priority, self.expires_at or NEVER, self.number)

    def is_due(self, now: datetime) -> bool:
        """Tell whether its time is over and something of it is there to expire."""
        return self.expires_at is not None and self.expires_at <= now and self.remaining > self.held


@dataclass(frozen=True, slots=True)
class Plan:
    """What changes seldom about an account: tier, period, quota, policy, alerts, provisioning."""

    tier: str = "free"
    period_start: datetime | None = None
    """Start of the running period of tier and quota; None before the first."""
    next_tier: str | None = None
    """Tier from the next period on (a downgrade)."""
    tier_grant: int | None = None
    """Number of the grant that the tier gave for this period."""
    calls: int = 0
    """Calls counted in this period."""
    call_limit: int | None = None
    """Calls allowed in a period, where it is not what the tier says."""
    policy: Policy = "pool"
    role: Role | None = None
    """Of a member's account only."""
    low_micro: int | None = None
    low_percent: int | None = None
    """Thresholds of CreditsLowV1, where they are not the settings'."""
    top: int = 0
    """What was available after the newest grant: the 100 % of `low_percent`."""
    alerted: tuple[str, ...] = ()
    """Alerts raised since they were last armed."""
    welcome: Literal["", "pending", "given"] = ""
    verified: bool = False
    registered: bool = False
    """A registration of theirs came after (or with) the welcome: who sent them was thanked then."""
    milestones: tuple[str, ...] = ()
    """Those that were reached."""
    withheld: tuple[str, ...] = ()
    """Those that parts of the welcome credits had to wait for."""


NO_PLAN = Plan()
_NAMES = [f.name for f in fields(Plan)]
_VALUES = attrgetter(*_NAMES)
_CALLS, _START = _NAMES.index("calls"), _NAMES.index("period_start")


@dataclass(frozen=True, slots=True)
class Account:
    """What one payer has. `debt > 0` implies that nothing is available."""

    subject: str
    balance: int = 0
    held: int = 0
    debt: int = 0
    sequence: int = 0
    last_at: datetime = EPOCH
    grants: tuple[Grant, ...] = ()
    """Those with something left, in burn order; they sum up to `balance` and `held`."""
    granted: int = 0
    """All that came in and neither expired nor was taken back: used = granted - balance."""
    plan: Plan = NO_PLAN

    @property
    def available(self) -> int:
        """What is owned and not reserved."""
        return self.balance - self.held

    @property
    def tier(self) -> str:
        """The tier that it is on."""
        return self.plan.tier


def with_plan(a: Account, plan: Plan) -> Account:
    """Give an account another plan. Spelled out: `dataclasses.replace` takes thrice as long."""
    return Account(
        a.subject, a.balance, a.held, a.debt, a.sequence, a.last_at, a.grants, a.granted, plan
    )


def counted(plan: Plan, now: datetime) -> Plan:
    """Give a plan with one call more; its first call begins a period. Quicker than `replace`."""
    values = list(_VALUES(plan))
    values[_CALLS] += 1
    values[_START] = values[_START] or now
    return Plan(*values)


def burn(account: Account, amount: int) -> list[tuple[int, int]]:
    """Choose the grants that pay `amount` out of what is free: (number, part) in burn order.

    Raises LedgerFault when less than that is free.
    """
    parts, left = [], amount
    for grant in account.grants:
        if left <= 0:
            break
        part = min(left, grant.remaining - grant.held)
        if part > 0:
            parts.append((grant.number, part))
            left -= part
    if left > 0:
        raise LedgerFault(f"{left} micro-credits of {amount} are in no grant of {account.subject}")
    return parts


def moved(grants: tuple[Grant, ...], deltas: Iterable[Delta]) -> tuple[Grant, ...]:
    """Apply an entry's deltas to grants; those with nothing left drop out.

    Raises LedgerFault for an unknown grant, or one that would have less than nothing.
    """
    changes = {number: (amount, held) for number, amount, held in deltas}
    after = []
    for grant in grants:
        change = changes.pop(grant.number, None)
        if change is None:
            after.append(grant)
            continue
        remaining, held = grant.remaining + change[0], grant.held + change[1]
        if not 0 <= held <= remaining:
            raise LedgerFault(f"grant {grant.number}: {remaining} left, {held} held cannot be")
        if remaining:
            after.append(Grant(grant.number, remaining, held, grant.priority, grant.expires_at))
    if changes:
        raise LedgerFault(f"no grant {sorted(changes)} is left to move")
    return tuple(after)


def with_grants(grants: tuple[Grant, ...], more: Iterable[Grant]) -> tuple[Grant, ...]:
    """Add grants that are not there yet, keeping the burn order."""
    known = {g.number for g in grants}
    new = [g for g in more if g.number not in known]
    return tuple(sorted((*grants, *new), key=lambda g: g.burn_order)) if new else grants
