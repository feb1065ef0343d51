"""Holds that a caller asks for at once: reserve, settle, release (a streaming session is a hold).

The same holds as those of pipelines, by the same rules; the caller has the answer in hand, so
nothing is announced but the ledger's entries. A hold's id is the key that it is kept under.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID

from faregate.events.amounts import LIMIT_MICRO
from faregate.ledger.core import quotas
from faregate.ledger.core.commands import Release, Reserve, Settle, Usage
from faregate.ledger.core.denials import facts, rfc3339
from faregate.ledger.core.holds import (
    close_hold,
    close_if_due,
    open_hold,
    owned_pipeline,
    take_hold,
)
from faregate.ledger.core.model import Hold, Outcome, Pipeline, Rejected
from faregate.ledger.core.payers import Payer, candidates, covering, involved, refusal
from faregate.ledger.core.posting import Work
from faregate.ledger.core.prices import Book
from faregate.ledger.core.provisioning import welcome
from faregate.ledger.core.renewal import refresh
from faregate.ledger.core.usage import NO_PRICE, Price, charge, cost_of, price_of


def reserve(work: Work, index: int, cmd: Reserve) -> Outcome:
    """Hold credits for a caller; a refusal is an outcome with the contract's reason.

    Raises Rejected: `hold_conflict` for a hold id that is taken, `amount_out_of_range`.
    """
    if cmd.pipeline_key in work.state.pipelines:
        raise Rejected("hold_conflict", "this hold exists already")
    welcome(work, cmd.user, "lazy")
    for subject in involved(work, cmd.user, cmd.org):
        refresh(work, subject)
    book, payers = work.state.books.in_force(work.now), candidates(work, cmd.user, cmd.org)
    price = _estimate(work, cmd, book)
    if book is None or price.cost is None or not _is_offered(cmd, book):
        return _refused(work, index, cmd, "unknown_price", payers, None)
    if price.cost >= LIMIT_MICRO:
        raise Rejected("amount_out_of_range", "a hold must be below 10^9 credits")
    if cmd.counts and quotas.is_used_up(work, cmd.user):
        return _refused(work, index, cmd, "quota_exceeded", payers, price.cost)
    payer = covering(work, payers, price.cost) if price.cost else payers[0]
    if payer is None:
        return _refused(
            work, index, cmd, refusal(work, payers, price.cost), payers, price.cost
        )  # fmt: skip
    hold = _hold(work, cmd, book, payer, price.cost) if price.cost else None
    pipeline = Pipeline(
        cmd.pipeline_key, cmd.user, cmd.org, 1, (), (), hold, cmd.identity.event_key
    )  # fmt: skip
    work.put(pipeline)
    calls = quotas.count(work, cmd.user) if cmd.counts else 0
    return _reserved(work, index, cmd, payer, hold, book, calls)


def _estimate(work: Work, cmd: Reserve, book: Book | None) -> Price:
    amount = 0 if cmd.amount is None and cmd.usage and cmd.usage.byok else cmd.amount
    if amount is not None:
        return Price(book.version if book else None, amount)
    return cost_of(work, book, cmd.usage) if cmd.usage else NO_PRICE


def _is_offered(cmd: Reserve, book: Book) -> bool:
    """Tell whether a call's model may be called; what is inactive still has its price."""
    asked = cmd.usage
    if asked is None or asked.model is None or asked.byok or not cmd.counts:
        return True
    return book.is_active(asked.provider, asked.model)


def _hold(work: Work, cmd: Reserve, book: Book, payer: Payer, amount: int) -> Hold:
    return take_hold(
        work,
        payer,
        amount,
        hold_id=cmd.pipeline_key,
        user=cmd.user,
        org=cmd.org,
        price_version=book.version,
        expires_at=work.now + (cmd.ttl or work.state.rules.hold_ttl),
    )


def _reserved(
    work: Work,
    index: int,
    cmd: Reserve,
    payer: Payer,
    hold: Hold | None,
    book: Book,
    calls: int,
) -> Outcome:
    body: dict[str, Any] = {
        "items": 1,
        "phases": [],
        "pruned": [],
        "payer": payer.subject,
        "available": work.state.accounts[payer.subject].available,
        "reserved": hold.amount if hold else 0,
        "hold_id": str(UUID(bytes=hold.id)) if hold else None,
        "hold_expires_at": rfc3339(hold.expires_at) if hold else None,
        "price_version": book.version,
    }
    quota = quotas.standing(work, cmd.user) if cmd.counts else None
    return Outcome(
        index, cmd.identity, "reserve", "reserved", cmd.user, cmd.org, body, calls, quota
    )


def _refused(
    work: Work, index: int, cmd: Reserve, reason: str, payers: list[Payer], required: int | None
) -> Outcome:
    body = facts(work, cmd.user, payers, reason, required)
    return Outcome(index, cmd.identity, "reserve", "refused", cmd.user, cmd.org, body)


def settle(work: Work, index: int, cmd: Settle) -> Outcome:
    """Charge what was used against a hold; `final` releases the rest.

    What happened is charged whole: beyond the hold from what is free, then as debt (rule 10).
    Raises Rejected: `unknown_hold`, `payer_mismatch`, `hold_settled` once it was settled for good,
    `unknown_price`, `amount_out_of_range`, `beyond_hold` for more than is left where it is `within`.
    """
    pipeline = _owned(work, cmd.pipeline_key, cmd.user, cmd.org)
    if pipeline.is_settled:
        raise Rejected("hold_settled", "everything that was used of this hold has been settled")
    used = cmd.usage or Usage(cmd.identity, cmd.user, cmd.org, cmd.pipeline_key, work.now)
    if cmd.usage is not None:
        refresh(work, cmd.user)  # their tier may price the call
    price = _price(work, cmd, used, pipeline)
    if price.cost is None:
        raise Rejected("unknown_price", "the hold's price version has no price for this model")
    if cmd.within and price.cost > _left(work, pipeline):
        message = "who has left the org settles no more than is left of a hold that has not ended"
        raise Rejected("beyond_hold", message)
    payer = pipeline.hold.payer if pipeline.hold else cmd.org or cmd.user
    if work.state.accounts[payer].debt + price.cost >= LIMIT_MICRO:
        raise Rejected("amount_out_of_range", "a charge must stay below 10^9 credits")
    pipeline = close_if_due(work, pipeline) or pipeline
    charge(work, used, pipeline, price, price.cost)
    if cmd.final:
        _settle_for_good(work, work.state.pipelines[cmd.pipeline_key])
    body = {"payer": payer, "cost": price.cost, "price_version": price.version}
    return Outcome(index, cmd.identity, "settle", "charged", cmd.user, cmd.org, body)


def _left(work: Work, pipeline: Pipeline) -> int:
    hold = open_hold(pipeline, work.now)
    return hold.remaining if hold else 0


def _settle_for_good(work: Work, pipeline: Pipeline) -> None:
    """Close the hold, if there is one, and note that no more usage of it is to come."""
    hold = close_hold(work, pipeline, "settled").hold
    done = replace(hold, usage_expected=hold.usage_settled) if hold else None
    work.put(replace(pipeline, hold=done, settled=hold is None))


def _price(work: Work, cmd: Settle, used: Usage, pipeline: Pipeline) -> Price:
    if cmd.cost is None:
        return price_of(work, used, pipeline)
    hold = pipeline.hold
    return Price(hold.price_version if hold else None, cmd.cost)


def release(work: Work, index: int, cmd: Release) -> Outcome:
    """Give back what is left of a hold. Releasing twice is harmless.

    Raises Rejected: `unknown_hold`, `payer_mismatch`.
    """
    pipeline = _owned(work, cmd.pipeline_key, cmd.user, cmd.org)
    left = pipeline.hold.remaining if pipeline.hold else 0
    close_hold(work, pipeline, "released")
    body = {"released": left}
    return Outcome(index, cmd.identity, "release", "released", cmd.user, cmd.org, body)


def _owned(work: Work, key: bytes, user: str, org: str | None) -> Pipeline:
    """Give the hold's row. Raises Rejected `unknown_hold`: also for somebody else's."""
    pipeline = owned_pipeline(work, key, user, org)
    if pipeline is None or (pipeline.user, pipeline.org) != (user, org):
        raise Rejected("unknown_hold", "there is no such hold of this caller")
    return pipeline
