"""What must become of what finance, operations and the sweeper do."""

from tests.simulation.books import MICRO
from tests.simulation.entries import apply
from tests.simulation.expect_requests import close_if_due, must
from tests.simulation.shadow import Shadow

from faregate.ledger.core import (
    AddGrant,
    Allocate,
    CloseHold,
    Entry,
    Outcome,
    Refresh,
    Refund,
    Register,
    Revoke,
    SetAlerts,
    SetBalance,
    SetMember,
    SetPolicy,
    SetQuota,
    SetTier,
    Unlock,
)

BROUGHT_BY_TIME = frozenset({"expiry", "renewal", "tier_change", "debt"})


def own(entries: list[Entry]) -> list[Entry]:
    """Entries of the command itself, without what time has brought."""
    return [e for e in entries if e.kind not in BROUGHT_BY_TIME and e.reason not in BROUGHT_BY_TIME]


def grant(shadow: Shadow, cmd: AddGrant, _: Outcome, entries: list[Entry]) -> None:
    apply(shadow, entries)
    shadow.refreshed(cmd.subject)
    got = [(e.subject, e.kind, e.amount) for e in own(entries)]
    must(got == [(cmd.subject, cmd.kind, cmd.amount)], f"granted {got}")
    terms = own(entries)[0].terms
    must(terms and (terms.priority, terms.expires_at) == (cmd.priority, cmd.expires_at), "terms")


def set_balance(shadow: Shadow, cmd: SetBalance, _: Outcome, entries: list[Entry]) -> None:
    apply(shadow, entries)
    shadow.refreshed(cmd.subject)
    account = shadow.account(cmd.subject)
    must((account.balance, account.debt) == (cmd.target, 0), f"{account.balance}, {account.debt}")
    must([e.kind for e in own(entries)] == ["adjustment"], "one adjustment")


def revoke(shadow: Shadow, cmd: Revoke, _: Outcome, entries: list[Entry]) -> None:
    (entry,) = own(entries)
    apply(shadow, entries[:-1])
    lot = shadow.account(cmd.subject).lots.get(cmd.number)
    had = lot.remaining - lot.held if lot else 0
    apply(shadow, [entry])
    shadow.refreshed(cmd.subject)
    must((entry.kind, entry.amount) == ("adjustment", -had), f"revoked {entry.amount} of {had}")
    must(entry.grants == ((cmd.number, entry.amount, 0),), "of another grant")


def refund(shadow: Shadow, cmd: Refund, _: Outcome, entries: list[Entry]) -> None:
    must(cmd.charge_id not in shadow.refunded, "a charge was refunded twice")
    shadow.refunded.add(cmd.charge_id)
    apply(shadow, entries)
    for part in cmd.parts:
        shadow.refreshed(part.subject)
    given = [e for e in entries if e.kind == "refund"]
    must([e.subject for e in given] == [p.subject for p in cmd.parts], "refunded to others")
    for entry, part in zip(given, cmd.parts, strict=True):
        must(entry.amount - entry.debt_delta == part.debt - part.amount, "not the whole charge")
        back = {(n, amount) for n, amount, _ in entry.grants if n != entry.sequence}
        taken = {(n, -amount) for n, amount, _ in part.grants if amount}
        must(back == taken, f"given back to {back}, taken from {taken}")


def set_tier(shadow: Shadow, cmd: SetTier, outcome: Outcome, entries: list[Entry]) -> None:
    it, result = shadow.standing(cmd.subject), outcome.result
    shadow.changing = cmd.tier if result == "changed" else None
    apply(shadow, entries)
    shadow.refreshed(cmd.subject)
    if shadow.changing:  # it includes nothing, and the one before has left nothing
        must(not shadow.offer(cmd.tier)[0], "the tier's credits are missing")
        shadow.begin(cmd.subject, cmd.tier, shadow.now)
        shadow.changing = None
    if result != "changed":
        it.next_tier = cmd.tier if result == "scheduled" else None
    must(result == "scheduled" or it.tier == cmd.tier, f"on {it.tier}, not {cmd.tier}")
    lot = shadow.account(cmd.subject).lots.get(it.replaced or 0)
    must(result != "changed" or lot is None or lot.remaining == lot.held, "old credits stayed")


def set_quota(shadow: Shadow, cmd: SetQuota, _: Outcome, entries: list[Entry]) -> None:
    must(not entries, "a quota moves no credits")
    shadow.standing(cmd.subject).limit = cmd.calls


def set_alerts(shadow: Shadow, cmd: SetAlerts, _: Outcome, entries: list[Entry]) -> None:
    must(not entries, "thresholds move no credits")
    it = shadow.standing(cmd.subject)
    it.low_micro, it.low_percent, it.alerted = cmd.low_micro, cmd.low_percent, set()


def set_policy(shadow: Shadow, cmd: SetPolicy, _: Outcome, entries: list[Entry]) -> None:
    must(not entries, "a policy moves no credits")
    shadow.standing(cmd.org).policy = cmd.policy


def set_member(shadow: Shadow, cmd: SetMember, _: Outcome, entries: list[Entry]) -> None:
    member = shadow.members[cmd.org, cmd.user]
    shadow.standing(member).role = cmd.role
    apply(shadow, entries)
    shadow.refreshed(member)
    must(all(e.subject == member for e in entries), "only the allocation is taken back")
    kept = cmd.role == "removed" and shadow.account(member).available
    must(not kept, f"{member} may spend and is no member")


def allocate(shadow: Shadow, cmd: Allocate, _: Outcome, entries: list[Entry]) -> None:
    member = shadow.members[cmd.org, cmd.user]
    it = shadow.standing(member)
    if it.role in {None, "removed"}:
        it.role = "member"
    apply(shadow, entries)
    shadow.refreshed(member)
    must(all(e.subject == member for e in entries), "an allocation is a limit, not credits")
    moved = [e.amount for e in own(entries)]
    if cmd.amount is None:
        must(shadow.account(member).available == 0, "not all was taken back")
    else:
        must(moved == [cmd.amount], f"allocated {moved} instead of {cmd.amount}")


def register(shadow: Shadow, cmd: Register, outcome: Outcome, entries: list[Entry]) -> None:
    known = cmd.referrer is not None and shadow.account(cmd.referrer).sequence > 0
    apply(shadow, entries)
    if cmd.email_verified:
        shadow.reach(cmd.user, "email_verified")
    it, bonus = shadow.standing(cmd.user), shadow.rules.welcome.referral_bonus
    thanks = [(e.subject, e.amount) for e in own(entries) if e.reason == "referral"]
    if it.welcome == "given" and not it.registered:
        it.registered = True
        due = bonus and known and cmd.referrer != cmd.user
        must(thanks == ([(cmd.referrer, bonus)] if due else []), f"{thanks} for a referral")
    else:
        must(not thanks, "a referral was paid twice")
    came = any(e.reason == "welcome" for e in entries)
    must((outcome.result == "provisioned") == came, f"{outcome.result}")


def unlock(shadow: Shadow, cmd: Unlock, outcome: Outcome, entries: list[Entry]) -> None:
    it = shadow.standing(cmd.user)
    must(it.welcome == "given", "a milestone of somebody who was never welcomed")
    new = cmd.milestone not in it.milestones and cmd.milestone in it.withheld
    must([e.amount for e in own(entries)] == ([MICRO] if new else []), "a milestone pays once")
    must((outcome.result == "unlocked") == new, "a milestone pays once")
    apply(shadow, entries)
    shadow.reach(cmd.user, cmd.milestone)


def close_hold(shadow: Shadow, cmd: CloseHold, _: Outcome, entries: list[Entry]) -> None:
    run = shadow.runs[cmd.pipeline_key]
    must(run.hold == cmd.hold_id and run.is_due(shadow.now), "a hold was closed before its time")
    apply(shadow, entries)
    close_if_due(shadow, run)


def refresh(shadow: Shadow, cmd: Refresh, _: Outcome, entries: list[Entry]) -> None:
    welcomed = [e.reason for e in own(entries)]
    must(welcomed == (["welcome"] if welcomed and cmd.welcome else []), "time brings nothing else")
    apply(shadow, entries)
    shadow.refreshed(cmd.subject)
