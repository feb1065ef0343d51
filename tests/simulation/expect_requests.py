"""What must become of requests and of charges at once: who pays, or why nobody does."""

from tests.simulation.books import Price
from tests.simulation.database import Broken
from tests.simulation.entries import apply
from tests.simulation.shadow import Run, Shadow

from faregate.ledger.core import (
    Deduct,
    Entry,
    Finished,
    Outcome,
    PhaseCompleted,
    Request,
    Reserve,
)

Verdict = tuple[str, str | None, str | None]
"""A reason (or `ok`), the account that pays, and the member's account that goes along."""


def split(entries: list[Entry], kind: str) -> int:
    """Where the first entry of a kind is."""
    for n, entry in enumerate(entries):
        if entry.kind == kind:
            return n
    return len(entries)


def must(holds: object, message: str) -> None:
    if not holds:
        raise Broken(message)


def who_pays(shadow: Shadow, user: str, org: str | None, required: int) -> Verdict:
    """Who pays the whole of `required`, or the first reason why nobody does."""
    if org is not None and shadow.standing(org).policy == "allocated":
        return _allocated(shadow, user, org, required)
    payers = [user] if org is None else [org, user]
    if not required:
        return "ok", payers[0], None
    for payer in payers:
        it = shadow.account(payer)
        if not it.debt and it.available >= required:
            return "ok", payer, None
    owes = any(shadow.account(payer).debt for payer in payers)
    return ("debt_outstanding" if owes else "insufficient_credits"), None, None


def _allocated(shadow: Shadow, user: str, org: str, required: int) -> Verdict:
    it, member = shadow.account(org), shadow.member(org, user)
    if not required:
        return "ok", org, member
    if it.debt:
        return "debt_outstanding", None, None
    allocation = shadow.account(member) if member else None
    if allocation is None or allocation.granted <= 0:
        return "no_allocation", None, None
    if allocation.available < required:
        return "allocation_exhausted", None, None
    if it.available < required:
        return "insufficient_credits", None, None
    return "ok", org, member


def come_in(shadow: Shadow, user: str, org: str | None) -> None:
    """The accounts that a decision rests on are as of now."""
    shadow.refreshed(user)
    if org is not None:
        shadow.refreshed(org)
        member = shadow.members.get((org, user))
        if member is not None:
            shadow.refreshed(member)


def close_if_due(shadow: Shadow, run: Run | None) -> None:
    if run is not None and run.is_due(shadow.now):
        run.state = "closed"


def used_up(shadow: Shadow, user: str) -> bool:
    allowed = shadow.limit(user)
    return allowed is not None and shadow.standing(user).calls >= allowed


def request(shadow: Shadow, cmd: Request, outcome: Outcome, entries: list[Entry]) -> None:
    run = shadow.runs.get(cmd.pipeline_key)
    mine = run is None or (run.user, run.org) == (cmd.user, cmd.org)
    must(mine or (run and not run.is_open(shadow.now)), "somebody else's live pipeline was used")
    at = split(entries, "hold")
    apply(shadow, entries[:at])
    close_if_due(shadow, run)
    body = outcome.body or {}
    if run and run.state == "live":
        must(outcome.result == "initiated" and at == len(entries), "a live hold was held again")
        must(body["hold_id"].replace("-", "") == (run.hold or b"").hex(), "another hold was given")
        return
    if run and run.state != "none":
        run.state = "closed"
    come_in(shadow, cmd.user, cmd.org)
    reason, required, price = _verdict(shadow, cmd, body)
    payer = member = None
    if reason == "ok":
        reason, payer, member = who_pays(shadow, cmd.user, cmd.org, required)
    if reason != "ok":
        must(at == len(entries), "a hold although it was denied")
        must(body.get("reason") == reason, f"{body.get('reason') or 'let in'}, not {reason}")
        return
    must(outcome.result == "initiated", f"denied by {body.get('reason')} and could pay")
    must(body["reserved"] == required, f"{body['reserved']} reserved of {required}")
    _let_in(shadow, cmd, entries[at:], required, payer, member, price, body)


def _verdict(shadow: Shadow, cmd: Request, body: dict) -> tuple[str, int, Price | None]:  # type: ignore[type-arg]
    """What can be said before asking who pays: a reason or `ok`, and what is required."""
    price = shadow.price()
    listed = price.document["pipelines"].get(cmd.pipeline) if price else None
    phases = cmd.phases or listed
    if phases is None:
        return "unknown_pipeline", 0, price
    done = shadow.done.get((cmd.org or cmd.user, cmd.batch_key), {})
    covered = {p for p, items in done.items() if items is None or items >= cmd.items}
    pruned = [p for p in phases if p in covered]
    to_run = [p for p in phases if p not in pruned]
    must(body["pruned"] == pruned and body["phases"] == to_run, f"{body['pruned']}, not {pruned}")
    required = price.run(tuple(to_run), cmd.items) if price else None
    if required is None:
        return "unknown_price", 0, price
    if cmd.expires_at is not None and shadow.now >= cmd.expires_at:
        return "request_expired", required, price
    if cmd.org is None and used_up(shadow, cmd.user):
        return "quota_exceeded", required, price
    return "ok", required, price


def _let_in(
    shadow: Shadow, cmd: Request, holds: list[Entry], required: int, payer: str | None,
    member: str | None, price: Price | None, body: dict,  # type: ignore[type-arg]
) -> None:  # fmt: skip
    run = Run(cmd.identity.event_key, cmd.user, cmd.org, cmd.items, body["phases"], body["pruned"])
    shadow.runs[cmd.pipeline_key] = run
    if cmd.org is None:
        shadow.count(cmd.user)
    must(body["payer"] == payer, "another payer is named")
    _reserve(shadow, run, holds, required, (payer, member), price)


def _reserve(
    shadow: Shadow, run: Run, holds: list[Entry], required: int,
    payers: tuple[str | None, str | None], price: Price | None,
) -> None:  # fmt: skip
    """The payer holds the whole of it, and the member's allocation as much."""
    payer, member = payers
    expected = [(s, required) for s in payers if s] if required else []
    got = [(e.subject, e.held_delta) for e in holds if e.kind == "hold"]
    must(got == expected and len(holds) == len(got), f"holds {got}, expected {expected}")
    if required and price and payer:
        run.hold, run.payer, run.member = holds[0].hold_id, payer, member
        run.version, run.state = price.version, "live"
        run.until = shadow.now + shadow.rules.hold_ttl
        shadow.by_hold[run.hold or b""] = run
        must(all(e.price_version == run.version for e in holds), "a hold of another price")
    apply(shadow, holds)


def owned(shadow: Shadow, key: bytes | None, user: str, org: str | None) -> Run | None:
    """The pipeline that an event is about; while it reserves, only its owner may speak of it."""
    run = shadow.runs.get(key) if key else None
    if run is None or run.hold is None or run.is_of(user, org):
        return run
    must(not run.is_open(shadow.now), "somebody else spoke for a live pipeline")
    return None


def completed(shadow: Shadow, cmd: PhaseCompleted, _: Outcome, entries: list[Entry]) -> None:
    run = owned(shadow, cmd.pipeline_key, cmd.user, cmd.org)
    apply(shadow, entries)
    close_if_due(shadow, run)
    items = cmd.items if cmd.items is not None else run.items if run else None
    done = shadow.done.setdefault((cmd.org or cmd.user, cmd.batch_key), {})
    before = done.get(cmd.phase, 0)
    done[cmd.phase] = None if items is None or before is None else max(items, before)
    if run and run.state == "live" and run.until:
        run.until = max(run.until, shadow.now + shadow.rules.hold_ttl)


def finished(shadow: Shadow, cmd: Finished, _: Outcome, entries: list[Entry]) -> None:
    run = owned(shadow, cmd.pipeline_key, cmd.user, cmd.org)
    if run and run.is_open(shadow.now) and run.state == "live":
        run.state, run.expected = "closing", cmd.usage_events
        run.until = shadow.now + shadow.rules.grace
    apply(shadow, entries)
    close_if_due(shadow, run)
    if run and run.is_settled():
        run.state = "closed"
    if run and run.user == cmd.user:
        shadow.reach(cmd.user, "first_pipeline")


def reserve(shadow: Shadow, cmd: Reserve, outcome: Outcome, entries: list[Entry]) -> None:
    must(cmd.pipeline_key not in shadow.runs, "a hold was made twice")
    at = split(entries, "hold")
    apply(shadow, entries[:at])
    come_in(shadow, cmd.user, cmd.org)
    price, amount, reason, payer, member = shadow.price(), cmd.amount, "ok", None, None
    if price and cmd.usage and cmd.usage.model and amount is None:
        tokens = cmd.usage.input_tokens or 0, cmd.usage.output_tokens or 0
        tier = shadow.standing(cmd.user).tier
        amount = price.tokens(cmd.usage.model, *tokens, tier)
    if price is None or amount is None:
        reason = "unknown_price"
    elif cmd.counts and used_up(shadow, cmd.user):
        reason = "quota_exceeded"
    else:
        reason, payer, member = who_pays(shadow, cmd.user, cmd.org, amount)
    body = outcome.body or {}
    must(body.get("reason", "ok") == reason, f"{body.get('reason', 'reserved')}, not {reason}")
    if reason != "ok" or price is None or amount is None:
        must(at == len(entries), "a hold although it was refused")
        return
    run = Run(cmd.identity.event_key, cmd.user, cmd.org, 1, [], [], asked_for=True)
    shadow.runs[cmd.pipeline_key] = run
    if cmd.counts:
        shadow.count(cmd.user)
    _reserve(shadow, run, entries[at:], amount, (payer, member), price)
    if run.hold:
        run.until = shadow.now + (cmd.ttl or shadow.rules.hold_ttl)


def deduct(shadow: Shadow, cmd: Deduct, outcome: Outcome, entries: list[Entry]) -> None:
    at, cost = split(entries, "usage"), cmd.cost or 0
    apply(shadow, entries[:at])
    come_in(shadow, cmd.user, cmd.org)
    if cmd.counts and used_up(shadow, cmd.user):
        reason, payer, member = "quota_exceeded", None, None
    else:
        reason, payer, member = who_pays(shadow, cmd.user, cmd.org, cost)
    paid = [(e.subject, -e.amount, e.debt_delta) for e in entries[at:]]
    expected = [(s, cost, 0) for s in (payer, member) if s]
    must(paid == expected, f"{paid} taken, {expected} expected ({reason})")
    must((outcome.result == "charged") == (reason == "ok"), f"{outcome.result}, not {reason}")
    must((outcome.body or {}).get("reason", "ok") == reason, f"refused, but not for {reason}")
    apply(shadow, entries[at:])
    if reason == "ok" and cmd.counts:
        shadow.count(cmd.user)
