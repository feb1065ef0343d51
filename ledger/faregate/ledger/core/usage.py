"""Usage: work that happened is charged, exactly once, and never lost (rule 10)."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from faregate.events.amounts import LIMIT_MICRO
from faregate.events.records import dataclass
from faregate.ledger.core import quotas
from faregate.ledger.core.accounts import burn
from faregate.ledger.core.commands import ChargeUnpriced, Usage
from faregate.ledger.core.holds import close_if_due, close_if_settled, open_hold, owned_pipeline
from faregate.ledger.core.model import Hold, Outcome, Pins, Pipeline, Rejected
from faregate.ledger.core.payers import is_allocated, member_of
from faregate.ledger.core.posting import Work, joined, post, take
from faregate.ledger.core.prices import Book
from faregate.ledger.core.provisioning import tier_for_price, welcome
from faregate.ledger.core.renewal import refresh


@dataclass(frozen=True, slots=True)
class Price:
    """Number of a price version, a cost (None where it has none), and the tier it rests on."""

    version: int | None
    cost: int | None
    tier: str | None = None


NO_PRICE = Price(None, None)


def usage(work: Work, index: int, cmd: Usage) -> Outcome:
    """Charge usage, or keep it as `unpriced` when nothing in the book prices it.

    Raises Rejected: `occurred_at_out_of_range`, `payer_mismatch`, `amount_out_of_range`.
    """
    _within_bounds(work, cmd.occurred_at)
    if cmd.model is not None:
        refresh(work, cmd.user)  # its tier may price the call
    pipeline = _pipeline_of(work, cmd)
    return _use(work, index, cmd, pipeline, price_of(work, cmd, pipeline))


def charge_unpriced(work: Work, index: int, cmd: ChargeUnpriced) -> Outcome | None:
    """Charge kept usage if it has a price by now; None (and no trace) while it has none.

    A price that was applied later than the usage occurred counts too: the first one that did.
    """
    written = len(work.entries)
    if cmd.usage.model is not None:
        refresh(work, cmd.usage.user)  # its tier may price the call
    pipeline = _pipeline_of(work, cmd.usage)
    price = _late_price(work, cmd.usage, pipeline)
    if price.cost is None:
        work.undo(written)
        return None
    done = _use(work, index, cmd.usage, pipeline, price)
    work.charged.append(cmd.unpriced_id)  # only now: a refusal keeps the usage
    return replace(done, identity=cmd.identity, name="charge_unpriced")


def _use(work: Work, index: int, cmd: Usage, pipeline: Pipeline | None, price: Price) -> Outcome:
    cost = price.cost
    if cost is not None and cost >= LIMIT_MICRO:
        raise Rejected("amount_out_of_range", "one usage event must cost less than 10^9 credits")
    if cost and work.state.accounts[_payer(cmd, pipeline)].debt + cost >= LIMIT_MICRO:
        raise Rejected("amount_out_of_range", "the payer's debt must stay below 10^9 credits")
    welcome(work, cmd.user, "last_resort")
    pipeline = close_if_due(work, pipeline)
    if cost is None:
        work.unpriced.append((len(work.outcomes), cmd))
        return _unpriced(work, index, cmd, pipeline)
    charge(work, cmd, pipeline, price, cost)
    calls = _count(work, cmd, pipeline)
    return Outcome(index, cmd.identity, "usage", "charged", cmd.user, cmd.org, calls=calls)


def _count(work: Work, cmd: Usage, pipeline: Pipeline | None) -> int:
    """Count an LLM call, unless the request of the user's own pipeline was counted for it."""
    if cmd.model is None:
        return 0
    if pipeline is not None and pipeline.org is None and pipeline.user == cmd.user:
        return 0
    return quotas.count(work, cmd.user)


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
    price, books = price_of(work, cmd, pipeline), work.state.books
    if price.cost is not None:
        return price
    book = books.in_force(cmd.occurred_at)
    if book is None or cost_of(work, book, cmd).cost is None:
        book = books.first_with(
            lambda b: cost_of(work, b, cmd).cost, cmd.occurred_at, work.now
        )  # fmt: skip
    return cost_of(work, book, cmd)


def price_of(work: Work, cmd: Usage, pipeline: Pipeline | None) -> Price:
    """Price usage by the live hold's version, else by the one of `occurred_at`."""
    books, hold = work.state.books, open_hold(pipeline, work.now)
    book = books.versions[hold.price_version] if hold else books.in_force(cmd.occurred_at)
    if cmd.byok:
        return Price(book.version if book else None, 0)
    return cost_of(work, book, cmd)


def cost_of(work: Work, book: Book | None, cmd: Usage) -> Price:
    """Price usage by one version of the book."""
    if book is None:
        return NO_PRICE
    if cmd.model is None:
        return Price(book.version, book.cost(cmd.phase, cmd.units))
    tier = tier_for_price(work, cmd.user)
    tokens = (cmd.input_tokens or 0, cmd.output_tokens or 0)
    price = book.model(cmd.provider, cmd.model)
    depends = price is not None and price.kind == "tier_rate"
    cost = book.tokens_cost(cmd.provider, cmd.model, *tokens, tier)
    return Price(book.version, cost, tier if depends else None)


def charge(work: Work, cmd: Usage, pipeline: Pipeline | None, price: Price, cost: int) -> None:
    """Take `cost` from the hold, then from what its payer has; the rest becomes debt."""
    any_hold, live = (pipeline.hold if pipeline else None), open_hold(pipeline, work.now)
    payer = _payer(cmd, pipeline)
    refresh(work, payer)
    from_hold = min(cost, live.remaining) if live else 0
    from_free = min(cost - from_hold, work.state.accounts[payer].available)
    org = cmd.org or (pipeline.org if pipeline and pipeline.user == cmd.user else None)

    def take_from(subject: str, pins: Pins, free: int, debt: int) -> Pins:
        settled, left = take(pins, from_hold) if from_hold else ((), pins)
        free_parts = burn(work.state.accounts[subject], free) if free else ()
        post(
            work,
            subject,
            "usage",
            amount=-(from_hold + free),
            held=-from_hold,
            debt=debt,
            grants=joined(settled, free_parts),
            hold_id=any_hold.id if any_hold else None,
            user=cmd.user,
            org=org,
            price_version=price.version,
            usage=cmd,
            tier=price.tier,
        )
        return left

    left = take_from(payer, live.pins if live else (), from_free, cost - from_hold - from_free)
    member = _member(work, cmd.user, payer, any_hold)
    member_left: Pins = ()
    if member is not None:
        refresh(work, member)
        free = min(cost - from_hold, work.state.accounts[member].available)
        member_left = take_from(member, live.member_pins if live else (), free, 0)
    if pipeline and live:
        close_if_settled(work, work.put(_settled(pipeline, live, from_hold, left, member_left)))


def _member(work: Work, user: str, payer: str, hold: Hold | None) -> str | None:
    """Give the allocation that goes down with the org: the hold's, else the acting member's."""
    if hold is not None:
        return hold.member
    if not is_allocated(work, payer):
        return None
    return member_of(work, user, payer)


def _settled(p: Pipeline, hold: Hold, amount: int, pins: Pins, member_pins: Pins) -> Pipeline:
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
        pins,
        hold.member,
        member_pins,
    )
    return Pipeline(p.key, p.user, p.org, p.items, p.phases, p.pruned, after, p.cause)
