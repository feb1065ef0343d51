"""Usage: work that happened is charged, exactly once, and never lost (rule 10)."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from faregate.events.amounts import LIMIT_MICRO
from faregate.ledger.core.holds import close_if_due, close_if_settled, open_hold, owned_pipeline
from faregate.ledger.core.model import ChargeUnpriced, Hold, Outcome, Pipeline, Rejected, Usage
from faregate.ledger.core.posting import Work, post, welcome

Price = tuple[int | None, int | None]
"""Number of a price version and a cost in micro-credits; the cost is None where it has none."""


def usage(work: Work, index: int, cmd: Usage) -> Outcome:
    """Charge usage, or keep it as `unpriced` when nothing in the book prices it.

    Raises Rejected: `occurred_at_out_of_range`, `payer_mismatch`, `amount_out_of_range`.
    """
    _within_bounds(work, cmd.occurred_at)
    return _use(work, index, cmd, _price(work, cmd, _pipeline_of(work, cmd)))


def charge_unpriced(work: Work, index: int, cmd: ChargeUnpriced) -> Outcome | None:
    """Charge kept usage if it has a price by now; None (and no trace) while it has none.

    A price that was applied later than the usage occurred counts too: the first one that did.
    """
    price = _late_price(work, cmd.usage, _pipeline_of(work, cmd.usage))
    if price[1] is None:
        return None
    done = _use(work, index, cmd.usage, price)
    work.charged.append(cmd.unpriced_id)  # only now: a refusal keeps the usage
    return replace(done, identity=cmd.identity, name="charge_unpriced")


def _use(work: Work, index: int, cmd: Usage, price: Price) -> Outcome:
    pipeline = _pipeline_of(work, cmd)
    version, cost = price
    if cost is not None and cost >= LIMIT_MICRO:
        raise Rejected("amount_out_of_range", "one usage event must cost less than 10^9 credits")
    if cost and work.state.accounts[_payer(cmd, pipeline)].debt + cost >= LIMIT_MICRO:
        raise Rejected("amount_out_of_range", "the payer's debt must stay below 10^9 credits")
    welcome(work, cmd.user)
    pipeline = close_if_due(work, pipeline)
    if cost is None:
        work.unpriced.append((len(work.outcomes), cmd))
        return _unpriced(work, index, cmd, pipeline)
    _charge(work, cmd, pipeline, cost, version)
    return Outcome(index, cmd.identity, "usage", "charged", cmd.user, cmd.org)


def _unpriced(work: Work, index: int, cmd: Usage, pipeline: Pipeline | None) -> Outcome:
    account = work.state.accounts[_payer(cmd, pipeline)]
    body = {
        "account": account.subject,
        "balance": account.balance,
        "available": account.available,
        "debt": account.debt,
        "phase": cmd.phase,
        "model": cmd.model,
    }
    return Outcome(index, cmd.identity, "usage", "unpriced", cmd.user, cmd.org, body)


def _payer(cmd: Usage, pipeline: Pipeline | None) -> str:
    """Give the hold's payer, also when the hold is closed; else the org if named, else the user."""
    hold = pipeline.hold if pipeline else None
    return hold.payer if hold else cmd.org or cmd.user


def _within_bounds(work: Work, occurred_at: datetime) -> None:
    rules = work.state.rules
    if not work.now - rules.max_age <= occurred_at <= work.now + rules.max_ahead:
        message = (
            f"occurred_at must be within the last {rules.max_age.days} days and at most "
            f"{int(rules.max_ahead.total_seconds())} s ahead, so that old prices cannot be bought"
        )
        raise Rejected("occurred_at_out_of_range", message)


def _pipeline_of(work: Work, cmd: Usage) -> Pipeline | None:
    return owned_pipeline(work, cmd.pipeline_key, cmd.user, cmd.org) if cmd.pipeline_key else None


def _late_price(work: Work, cmd: Usage, pipeline: Pipeline | None) -> Price:
    """Price kept usage: as it would be, else by what was in force, else by what came first."""
    price, books = _price(work, cmd, pipeline), work.state.books
    if price[1] is not None:
        return price
    book = books.in_force(cmd.occurred_at)
    if book is None or book.cost(cmd.phase, cmd.units) is None:
        book = books.first_priced(cmd.phase, cmd.units, cmd.occurred_at, work.now)
    return (book.version, book.cost(cmd.phase, cmd.units)) if book else (None, None)


def _price(work: Work, cmd: Usage, pipeline: Pipeline | None) -> Price:
    """Give the price version (the live hold's, else the one of `occurred_at`) and the cost."""
    books, hold = work.state.books, open_hold(pipeline, work.now)
    book = books.versions[hold.price_version] if hold else books.in_force(cmd.occurred_at)
    if cmd.byok:
        return (book.version if book else None), 0
    return (book.version, book.cost(cmd.phase, cmd.units)) if book else (None, None)


def _charge(
    work: Work, cmd: Usage, pipeline: Pipeline | None, cost: int, version: int | None
) -> None:
    """Take `cost` from the hold, then from what its payer has; the rest becomes debt."""
    any_hold, live = (pipeline.hold if pipeline else None), open_hold(pipeline, work.now)
    payer = _payer(cmd, pipeline)
    from_hold = min(cost, live.remaining) if live else 0
    from_free = min(cost - from_hold, work.state.accounts[payer].available)
    post(
        work,
        payer,
        "usage",
        amount=-(from_hold + from_free),
        held=-from_hold,
        debt=cost - from_hold - from_free,
        hold_id=any_hold.id if any_hold else None,
        user=cmd.user,
        org=cmd.org or (pipeline.org if pipeline and pipeline.user == cmd.user else None),
        price_version=version,
        usage=cmd,
    )
    if pipeline and live:
        close_if_settled(work, work.put(_settled(pipeline, live, from_hold)))


def _settled(p: Pipeline, hold: Hold, amount: int) -> Pipeline:
    """Take `amount` from the hold. Spelled out: `dataclasses.replace` was a tenth of a batch."""
    after = Hold(
        hold.id,
        hold.payer,
        hold.amount,
        hold.remaining - amount,
        hold.price_version,
        hold.state,
        hold.expires_at,
        hold.usage_settled + 1,
        hold.usage_expected,
    )
    return Pipeline(p.key, p.user, p.org, p.items, p.phases, p.pruned, after, p.cause)
