"""Bugs of holds and prices (rules 8, 9 and 13, contract: Holds, Prices, Pruning)."""

from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import timedelta
from typing import Any
from unittest.mock import patch

from tests.simulation.planting import bug, everywhere, handler, method, nothing, within

from faregate.ledger.core import (
    Book,
    ChargeUnpriced,
    CloseHold,
    Hold,
    Pipeline,
    Request,
    Reserve,
    Settle,
    holds,
    requests,
    usage,
)
from faregate.ledger.core.prices import TokenRate
from faregate.ledger.core.usage import Price

Plant = AbstractContextManager[Any]


@bug
def a_hold_is_released_twice() -> Plant:
    def release(original: Any, work: Any, pipeline: Any, hold: Any, *rest: Any) -> None:
        original(work, pipeline, hold, *rest)
        left = work.state.accounts[rest[0]].held
        if left:  # so that nothing but the reconciliation of holds can tell
            half = replace(hold, remaining=min(left, hold.remaining))
            original(work, pipeline, half, *rest)

    return within(holds, "_release", release)


@bug
def a_hold_is_leaked_when_its_usage_has_settled() -> Plant:
    return everywhere("close_if_settled", lambda _, __, pipeline: pipeline)


@bug
def a_hold_whose_grace_is_over_is_never_swept() -> Plant:
    return handler(CloseHold, nothing)


@bug
def a_hold_is_closed_before_its_time() -> Plant:
    early = timedelta(minutes=10)

    def is_due(_: Any, hold: Hold, now: Any) -> Any:
        return hold.state != "closed" and now >= hold.expires_at - early

    return method(Hold, "is_due", is_due)


@bug
def what_was_settled_for_good_is_charged_again() -> Plant:
    return patch.object(Hold, "is_settled", False)


@bug
def what_held_nothing_is_charged_twice() -> Plant:
    def is_settled(pipeline: Pipeline) -> bool:
        return pipeline.hold is not None and pipeline.hold.is_settled

    return patch.object(Pipeline, "is_settled", property(is_settled))


@bug
def a_closed_hold_still_reserves() -> Plant:
    def close(_: Any, work: Any, pipeline: Any, __: str) -> Any:
        hold = pipeline.hold
        if hold is None:
            return pipeline
        return work.put(replace(pipeline, hold=replace(hold, state="closed", remaining=0)))

    return everywhere("close_hold", close)


@bug
def progress_revives_a_hold_that_is_closing() -> Plant:
    def extend(original: Any, work: Any, pipeline: Any) -> Any:
        hold = pipeline.hold
        if hold and hold.state == "closing":
            pipeline = replace(pipeline, hold=replace(hold, state="live"))
        return original(work, pipeline)

    return everywhere("extend", extend)


@bug
def usage_does_not_settle_against_its_hold() -> Plant:
    def charge(original: Any, work: Any, cmd: Any, _: Any, price: Any, cost: int) -> None:
        original(work, cmd, None, price, cost)

    return within(usage, "charge", charge)


@bug
def late_usage_is_charged_to_the_user() -> Plant:
    def payer(original: Any, cmd: Any, pipeline: Any) -> Any:
        closed = pipeline and pipeline.hold and pipeline.hold.state == "closed"
        return cmd.user if closed else original(cmd, pipeline)

    return within(usage, "_payer", payer)


@bug
def somebody_else_may_use_a_hold() -> Plant:
    return everywhere("owned_pipeline", lambda _, work, key, *__: work.state.pipelines.get(key))


@bug
def a_live_pipeline_is_held_again() -> Plant:
    def same(original: Any, work: Any, index: int, cmd: Any) -> Any:
        known = work.state.pipelines.get(cmd.pipeline_key)
        if known and known.hold and known.hold.state == "live":
            del work.state.pipelines[cmd.pipeline_key]
        return original(work, index, cmd)

    return handler(Request, same)


@bug
def the_last_settlement_keeps_the_rest() -> Plant:
    def settle(original: Any, work: Any, index: int, cmd: Any) -> Any:
        return original(work, index, replace(cmd, final=False))

    return handler(Settle, settle)


@bug
def a_hold_that_was_asked_for_has_no_end() -> Plant:
    def reserve(original: Any, work: Any, index: int, cmd: Any) -> Any:
        return original(work, index, replace(cmd, ttl=timedelta(days=365)))

    return handler(Reserve, reserve)


# Prices.


@bug
def kept_usage_is_priced_by_a_tier_that_is_over() -> Plant:
    def charge(original: Any, work: Any, index: int, cmd: Any) -> Any:
        with within(usage, "refresh", nothing):
            return original(work, index, cmd)

    return handler(ChargeUnpriced, charge)


@bug
def a_price_is_rounded_down_by_a_float() -> Plant:
    def cost(_: Any, rate: TokenRate, tokens_in: int, tokens_out: int) -> Any:
        parts = tokens_in * rate.input + tokens_out * rate.output
        return int(parts / float(rate.denominator)) * rate.step

    return method(TokenRate, "cost", cost)


@bug
def the_price_is_that_of_the_arrival() -> Plant:
    def price_of(original: Any, work: Any, cmd: Any, pipeline: Any) -> Any:
        return original(work, replace(cmd, occurred_at=work.now), pipeline)

    return within(usage, "price_of", price_of)


@bug
def a_hold_is_not_pinned_to_its_price_version() -> Plant:
    def price_of(original: Any, work: Any, cmd: Any, _: Any) -> Any:
        return original(work, cmd, None)

    return within(usage, "price_of", price_of)


@bug
def a_request_with_an_unknown_price_runs_for_free() -> Plant:
    return method(Book, "required", lambda original, book, *more: original(book, *more) or 0)


@bug
def usage_with_an_unknown_price_is_free() -> Plant:
    def cost_of(original: Any, work: Any, book: Any, cmd: Any) -> Any:
        price = original(work, book, cmd)
        return price if price.cost is not None else Price(price.version, 0)

    return within(usage, "cost_of", cost_of)


@bug
def pairs_are_counted_in_both_orders() -> Plant:
    from faregate.ledger.core.prices_models import PhasePrice

    def units(original: Any, price: Any, items: int) -> Any:
        return items * (items - 1) if price.per == "pair" else original(price, items)

    return method(PhasePrice, "units_for", units)


@bug
def a_phase_done_for_fewer_items_is_pruned() -> Plant:
    def prune(original: Any, work: Any, cmd: Any, phases: Any) -> Any:
        return original(work, replace(cmd, items=1), phases)

    return within(requests, "prune", prune)


@bug
def an_expired_request_is_let_in() -> Plant:
    def afresh(original: Any, work: Any, index: int, cmd: Any) -> Any:
        return original(work, index, replace(cmd, expires_at=None))

    return within(requests, "_decide_afresh", afresh)


@bug
def the_age_of_usage_is_not_bounded() -> Plant:
    return within(usage, "_within_bounds", nothing)
