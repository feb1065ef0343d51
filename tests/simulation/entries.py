"""What must hold for each entry, whatever command it comes from."""

from collections.abc import Callable

from tests.simulation.database import Broken
from tests.simulation.shadow import Shadow

from faregate.ledger.core import Entry
from faregate.ledger.core.accounts import PERIOD
from faregate.ledger.core.rebuild import Rebuilt

SIGNS: dict[str, tuple[str, str, str]] = {
    "purchase": ("+", "0", "0"),
    "bonus": ("+", "0", "0"),
    "refund": ("*", "0", "-"),
    "adjustment": ("?", "0", "-"),
    "usage": ("-", "-", "*"),
    "expiry": ("<", "0", "0"),
    "hold": ("0", "+", "0"),
    "release": ("0", "<", "0"),
    "debt": ("<", "0", "<"),
}
"""Of amount, held and debt: > 0 is `+`, >= 0 `*`, 0 `0`, <= 0 `-`, < 0 `<`, any `?`."""
_FITS: dict[str, Callable[[int], bool]] = {
    "+": lambda n: n > 0,
    "*": lambda n: n >= 0,
    "0": lambda n: n == 0,
    "-": lambda n: n <= 0,
    "<": lambda n: n < 0,
    "?": lambda _: True,
}
_SIGNS = {
    kind: (_FITS[amount], _FITS[held], _FITS[debt]) for kind, (amount, held, debt) in SIGNS.items()
}
_ARMING = frozenset({"purchase", "bonus", "adjustment", "refund"})


def apply(shadow: Shadow, entries: list[Entry]) -> None:
    """Check entries one by one and take them into the shadow."""
    for entry in entries:
        account = shadow.account(entry.subject)
        check_signs(entry)
        check_grants(shadow, account, entry)
        check_kind(shadow, account, entry)
        had = account.balance - account.held
        account.add(entry)
        if (entry.balance, entry.held, entry.debt) != (account.balance, account.held, account.debt):
            raise Broken(f"{entry.subject}: entry {entry.sequence} misstates the account")
        if entry.subject[0] != "m":
            shadow.totals[entry.kind] = shadow.totals.get(entry.kind, 0) + entry.amount
            check_alert(shadow, entry, had, account.balance - account.held)
        elif entry.alert:
            raise Broken("an allocation raised an alert")


REVOKED = "revoked"
"""The reason of what is taken out of one grant that somebody named."""


def check_signs(entry: Entry) -> None:
    amount, held, debt = _SIGNS[entry.kind]
    if not (amount(entry.amount) and held(entry.held_delta) and debt(entry.debt_delta)):
        raise Broken(f"{entry.kind}: {entry.amount}, {entry.held_delta}, {entry.debt_delta}")


def check_grants(shadow: Shadow, account: Rebuilt, entry: Entry) -> None:
    """What is taken out of what is free: by burn order, and never of what has expired.

    But a period that is made up for pays debt as if it had begun on time.
    """
    taken = {n: held - amount for n, amount, held in entry.grants if held > amount}
    if not taken or entry.kind == "expiry":
        return
    lots = account.lots
    for number, part in taken.items():
        lot = lots[number]
        if part > lot.remaining - lot.held:
            raise Broken(f"{entry.subject}: grant {number} pays more than is free of it")
        made_up_for = entry.kind == "debt" and number == shadow.standing(entry.subject).tier_grant
        if lot.expires_at is not None and lot.expires_at <= shadow.now and not made_up_for:
            raise Broken(f"{entry.subject}: grant {number} pays although it has expired")
    if entry.kind == "adjustment" and entry.reason == REVOKED:
        return
    last = max(lots[number].order for number in taken)
    for lot in lots.values():
        left = lot.remaining - lot.held - taken.get(lot.number, 0)
        if left > 0 and lot.order < last:
            raise Broken(f"{entry.subject}: grant {lot.number} should have paid first")


def check_kind(shadow: Shadow, account: Rebuilt, entry: Entry) -> None:
    match entry.kind:
        case "debt":
            paid = min(account.debt, account.available)
            if entry.amount != -paid or entry.debt_delta != -paid:
                raise Broken(f"{entry.subject}: debt of {account.debt} is paid by {entry.amount}")
        case "release":
            check_release(shadow, account, entry)
        case "expiry":
            for number, _, _ in entry.grants:
                lot = account.lots[number]
                over = lot.expires_at is not None and lot.expires_at <= shadow.now
                if not over:
                    check_replaced(shadow, entry, number)
        case "purchase" if entry.reason in {"renewal", "tier_change"}:
            check_period(shadow, entry)
        case "purchase" if entry.reason == "welcome":
            it = shadow.standing(entry.subject)
            if it.welcome == "given" or not entry.subject.startswith("user:"):
                raise Broken(f"{entry.subject}: welcomed twice")
            welcome(shadow, entry)
        case "bonus" if entry.reason == "referral":
            shadow.refreshed(entry.subject)
        case "bonus" if entry.reason and entry.reason.startswith("milestone:"):
            shadow.refreshed(entry.subject)
            name, it = entry.reason.partition(":")[2], shadow.standing(entry.subject)
            if name in it.milestones or name not in it.withheld:
                raise Broken(f"{entry.subject}: {name} pays twice")
            it.milestones.add(name)


def welcome(shadow: Shadow, entry: Entry) -> None:
    it, parts = shadow.standing(entry.subject), dict(shadow.rules.welcome.milestones)
    it.welcome, it.withheld = "given", parts.keys() - it.milestones
    if it.tier == "free":
        it.tier, it.start = "trial", it.start or shadow.now
    rules, later = shadow.rules, sum(parts[name] for name in it.withheld)
    amounts = dict((*rules.welcome.arms, *rules.welcome.by_referral, ("", rules.welcome_micro)))
    if entry.amount + later not in amounts.values():
        raise Broken(f"{entry.subject}: welcomed with {entry.amount}")


def check_release(shadow: Shadow, account: Rebuilt, entry: Entry) -> None:
    run = shadow.by_hold.get(entry.hold_id or b"")
    if run is None or entry.hold_id is None:
        raise Broken("a release of no hold")
    if account.remaining(entry.hold_id) != -entry.held_delta:
        raise Broken("a release is not of all that is left of its hold")
    good = {
        "expired": run.state == "live" and run.is_due(shadow.now),
        "finished": run.state == "closing" and (run.is_due(shadow.now) or run.is_settled()),
        "restarted": run.state == "closing",
        "settled": run.asked_for,
        "released": run.asked_for,
    }
    if entry.subject == run.payer and not good.get(entry.reason or ""):
        raise Broken(f"a hold that is {run.state} until {run.until} was {entry.reason}")
    if entry.subject == run.payer:
        run.state = "closed"


def check_period(shadow: Shadow, entry: Entry) -> None:
    """Credits of a tier: for a period that has begun, or because somebody puts it on a tier."""
    it = shadow.standing(entry.subject)
    expected = shadow.next_period(entry.subject)
    if expected is None and shadow.changing:
        shadow.refreshed(entry.subject)
        included = shadow.offer(shadow.changing)[0]
        expected = shadow.now, shadow.changing, included, "tier_change"
        shadow.changing = None
    terms = entry.terms
    got = (terms and terms.expires_at, entry.amount, entry.reason)
    if expected is None or got != (expected[0] + PERIOD, *expected[2:]):
        raise Broken(f"{entry.subject}: {got} for its tier, expected {expected}")
    shadow.begin(entry.subject, expected[1], expected[0])
    it.tier_grant = entry.sequence


def check_replaced(shadow: Shadow, entry: Entry, number: int) -> None:
    """What ends before its time is what the tier before has left."""
    if shadow.changing and shadow.next_period(entry.subject) is None:
        shadow.refreshed(entry.subject)
        shadow.begin(entry.subject, shadow.changing, shadow.now)
        shadow.changing = None
    it = shadow.standing(entry.subject)
    if entry.reason != "tier_change" or number != it.replaced:
        raise Broken(f"{entry.subject}: grant {number} expires before its time")


def replaced(shadow: Shadow, subject: str) -> int:
    """What is about to go of the periods before."""
    it, lots = shadow.standing(subject), shadow.account(subject).lots.values()
    return sum(
        lot.remaining - lot.held
        for lot in lots
        if lot.number == it.replaced or (lot.expires_at and lot.expires_at <= shadow.now)
    )


def check_alert(shadow: Shadow, entry: Entry, had: int, has: int) -> None:
    """Low and exhausted: once, as they are crossed, armed again by what comes in."""
    it, rules = shadow.standing(entry.subject), shadow.rules
    if entry.kind in _ARMING:
        it.top = has
        it.alerted = set()
        if entry.reason in {"renewal", "tier_change"}:
            it.top -= replaced(shadow, entry.subject)
    expected = []
    if has < had:
        absolute = rules.low_micro if it.low_micro is None else it.low_micro
        percent = rules.low_percent if it.low_percent is None else it.low_percent
        low = max(absolute, it.top * percent // 100)
        if low and has <= low < had and "low" not in it.alerted:
            expected.append(f"low:{low}")
            it.alerted.add("low")
        if has == 0 and "exhausted" not in it.alerted:
            expected.append("exhausted")
            it.alerted.add("exhausted")
    if entry.alert != (",".join(expected) or None):
        raise Broken(f"{entry.subject}: raised {entry.alert}, expected {expected}")
