"""What usage must cost, and whom."""

from tests.simulation.books import Price, in_force
from tests.simulation.entries import apply
from tests.simulation.expect_requests import close_if_due, must, owned, split
from tests.simulation.shadow import Run, Shadow

from faregate.ledger.core import ChargeUnpriced, Entry, Outcome, Release, Settle, Usage

Cost = tuple[int | None, int | None]
"""A price version and a cost; None: there is none."""


def usage(shadow: Shadow, cmd: Usage, outcome: Outcome, entries: list[Entry]) -> None:
    now, rules = shadow.now, shadow.rules
    must(now - rules.max_age <= cmd.occurred_at <= now + rules.max_ahead, "old prices were bought")
    run = owned(shadow, cmd.pipeline_key, cmd.user, cmd.org)
    at = split(entries, "usage")
    is_open = run is not None and run.is_open(now)
    apply(shadow, entries[:at])
    if cmd.model is not None:
        shadow.refreshed(cmd.user)
    cost = price_of(shadow, cmd, run if is_open else None)
    close_if_due(shadow, run)
    if cost[1] is None:
        must(outcome.result == "unpriced" and at == len(entries), "charged without a price")
        shadow.unpriced[len(shadow.effects)] = cmd
        return
    must(outcome.result == "charged", "kept although it has a price")
    charge(shadow, cmd, run, is_open, cost, entries[at:])
    _count(shadow, cmd, run)


def late(shadow: Shadow, cmd: ChargeUnpriced, outcome: Outcome, entries: list[Entry]) -> None:
    run = owned(shadow, cmd.usage.pipeline_key, cmd.usage.user, cmd.usage.org)
    at = split(entries, "usage")
    is_open = run is not None and run.is_open(shadow.now)
    apply(shadow, entries[:at])
    if cmd.usage.model is not None:
        shadow.refreshed(cmd.usage.user)
    cost = late_price(shadow, cmd.usage, run if is_open else None)
    must(outcome.result == "charged" and cost[1] is not None, "charged late without a price")
    close_if_due(shadow, run)
    charge(shadow, cmd.usage, run, is_open, cost, entries[at:])
    _count(shadow, cmd.usage, run)


def settle(shadow: Shadow, cmd: Settle, outcome: Outcome, entries: list[Entry]) -> None:
    """Charge what a caller has used of a hold; the last time the rest is released."""
    run = own_hold(shadow, cmd)
    must(not run.settled_for_good, "settled for good, and charged again")
    at = split(entries, "usage")
    is_open = run.is_open(shadow.now)
    apply(shadow, entries[:at])
    if cmd.usage is not None:
        shadow.refreshed(cmd.user)
        cost = price_of(shadow, cmd.usage, run if is_open else None)
        used = cmd.usage
    else:
        cost = (run.version or None), cmd.cost
        used = Usage(cmd.identity, cmd.user, cmd.org, cmd.pipeline_key, shadow.now)
    close_if_due(shadow, run)
    must(cost[1] is not None and cost[1] == (outcome.body or {})["cost"], "another cost is named")
    charge(shadow, used, run, is_open, cost, entries[at:])
    if cmd.final:
        run.state, run.expected = "closed", run.settled


def release(shadow: Shadow, cmd: Release, outcome: Outcome, entries: list[Entry]) -> None:
    run = own_hold(shadow, cmd)
    left = shadow.account(run.payer).remaining(run.hold) if run.hold else 0
    must((outcome.body or {})["released"] == left, "something else was released")
    apply(shadow, entries)
    must(not run.hold or not shadow.account(run.payer).remaining(run.hold), "not released")
    run.state = "closed" if run.hold else run.state


def own_hold(shadow: Shadow, cmd: Settle | Release) -> Run:
    run = shadow.runs.get(cmd.pipeline_key)
    must(run is not None and (run.user, run.org) == (cmd.user, cmd.org), "a hold of somebody else")
    assert run is not None
    return run


def price_of(shadow: Shadow, cmd: Usage, open_run: Run | None) -> Cost:
    """By the live hold's version, else by the one in force when it occurred."""
    if open_run is not None:
        price: Price | None = shadow.prices[open_run.version - 1]
    else:
        price = in_force(shadow.prices, cmd.occurred_at)
    if cmd.byok:
        return (price.version if price else None), 0
    return _by(shadow, cmd, price)


def late_price(shadow: Shadow, cmd: Usage, open_run: Run | None) -> Cost:
    """As it would be, else by what was in force, else by what came first after it."""
    version, cost = price_of(shadow, cmd, open_run)
    if cost is not None:
        return version, cost
    then = _by(shadow, cmd, in_force(shadow.prices, cmd.occurred_at))
    if then[1] is not None:
        return then
    later = [p for p in shadow.prices if cmd.occurred_at < p.since <= shadow.now]
    for price in sorted(later, key=lambda p: (p.since, p.version)):
        found = _by(shadow, cmd, price)
        if found[1] is not None:
            return found
    return None, None


def _by(shadow: Shadow, cmd: Usage, price: Price | None) -> Cost:
    if price is None:
        return None, None
    if cmd.model is None:
        return price.version, price.phase(cmd.phase or "", cmd.units or 0)
    tier = shadow.standing(cmd.user).tier
    tokens = cmd.input_tokens or 0, cmd.output_tokens or 0
    return price.version, price.tokens(cmd.model, *tokens, tier)


def charge(
    shadow: Shadow, cmd: Usage, run: Run | None, is_open: bool, cost: Cost, entries: list[Entry]
) -> None:
    """The hold first, then what the payer has, the rest is debt; a member's part beside it."""
    version, micro = cost
    assert micro is not None
    payer = run.payer if run and run.hold else cmd.org or cmd.user
    shadow.refreshed(payer)
    from_hold = _take(shadow, payer, run, is_open, micro, entries[0], owes=True)
    rest = entries[1:]
    member = _member(shadow, cmd, run, payer)
    if member is not None:
        at = split(rest, "usage")
        must(at < len(rest) and rest[at].subject == member, "the allocation did not go down")
        must(entries[0].subject == payer, "another account paid")
        apply(shadow, [entries[0], *rest[:at]])
        shadow.refreshed(member)
        _take(shadow, member, run, is_open, micro, rest[at], owes=False)
        apply(shadow, [rest[at]])
        rest = rest[at + 1 :]
        used = [entries[0].subject, member]
    else:
        apply(shadow, [entries[0]])
        used = [entries[0].subject]
    must(used[0] == payer and split(rest, "usage") == len(rest), "somebody else paid as well")
    must(
        entries[0].price_version == version, f"priced by {entries[0].price_version}, not {version}"
    )
    must(from_hold >= 0, "a hold gave back")
    if run and is_open:
        run.settled += 1
    apply(shadow, rest)
    if run and is_open and run.is_settled():
        run.state = "closed"


def _take(
    shadow: Shadow, subject: str, run: Run | None, is_open: bool, cost: int, entry: Entry,
    *, owes: bool,
) -> int:  # fmt: skip
    """Check one entry of a charge before it is applied; give what its hold paid."""
    account = shadow.account(subject)
    hold = run.hold if run else None
    from_hold = min(cost, account.remaining(hold)) if hold and is_open else 0
    free = min(cost - from_hold, account.available)
    expected = (-from_hold - free, -from_hold, cost - from_hold - free if owes else 0)
    got = (entry.amount, entry.held_delta, entry.debt_delta)
    must(entry.subject == subject, f"{entry.subject} paid instead of {subject}")
    must(got == expected, f"{subject}: {got} for a cost of {cost}, expected {expected}")
    must(entry.hold_id == hold, "a charge of another hold")
    return from_hold


def _member(shadow: Shadow, cmd: Usage, run: Run | None, payer: str) -> str | None:
    if run is not None and run.hold is not None:
        return run.member
    if shadow.standing(payer).policy != "allocated":
        return None
    return shadow.member(payer, cmd.user)


def _count(shadow: Shadow, cmd: Usage, run: Run | None) -> None:
    """An LLM call counts, but for one whose own request without an org was counted."""
    if cmd.model is None or (run is not None and run.org is None and run.user == cmd.user):
        return
    shadow.refreshed(cmd.user)
    shadow.count(cmd.user)
