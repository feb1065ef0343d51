"""Holds: live -> closing -> closed (rule 9, contract: Holds).

A hold pins parts of its payer's grants; for a member of an `allocated` org it pins as much of the
member's allocation. Both are held, settled and released by the same amounts.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from faregate.ledger.core.accounts import burn
from faregate.ledger.core.model import Hold, Pins, Pipeline, Rejected
from faregate.ledger.core.payers import Payer
from faregate.ledger.core.posting import Work, pay_debt, post, spend
from faregate.ledger.core.renewal import expire


def take_hold(
    work: Work,
    payer: Payer,
    amount: int,
    *,
    hold_id: bytes,
    user: str,
    org: str | None,
    price_version: int,
    expires_at: datetime,
) -> Hold:
    """Reserve `amount` of the payer, and of the member's allocation with it; give the hold."""

    def pin(subject: str) -> Pins:
        pins = tuple(burn(work.state.accounts[subject], amount))
        post(
            work,
            subject,
            "hold",
            held=amount,
            grants=tuple((number, 0, part) for number, part in pins),
            hold_id=hold_id,
            user=user,
            org=org,
            price_version=price_version,
        )
        return pins

    return Hold(
        hold_id,
        payer.subject,
        amount,
        amount,
        price_version,
        "live",
        expires_at,
        pins=pin(payer.subject),
        member=payer.member,
        member_pins=pin(payer.member) if payer.member else (),
    )


def close_hold(work: Work, pipeline: Pipeline, reason: str) -> Pipeline:
    """Release what is left of the pipeline's hold, let it pay debt, and close it.

    What expired while it was held goes at once: it never pays debt.
    """
    hold = pipeline.hold
    if hold is None or hold.state == "closed":
        return pipeline
    if hold.remaining:
        _release(work, pipeline, hold, hold.payer, hold.pins, reason)
        if hold.member:
            _release(work, pipeline, hold, hold.member, hold.member_pins, reason)
            take_back_if_removed(work, hold.member)
    return work.put(
        replace(pipeline, hold=replace(hold, remaining=0, state="closed", pins=(), member_pins=()))
    )


def _release(
    work: Work, pipeline: Pipeline, hold: Hold, subject: str, pins: Pins, reason: str
) -> None:
    post(
        work,
        subject,
        "release",
        held=-hold.remaining,
        grants=tuple((number, 0, -part) for number, part in pins),
        hold_id=hold.id,
        user=pipeline.user,
        org=pipeline.org,
        price_version=hold.price_version,
        reason=reason,
    )
    expire(work, subject)
    pay_debt(work, subject)


def take_back_if_removed(work: Work, member: str) -> None:
    """Take back what comes free in the allocation of somebody who is a member no more."""
    account = work.state.accounts[member]
    if account.plan.role == "removed" and account.available:
        amount = account.available
        grants = spend(account, amount)
        post(work, member, "adjustment", amount=-amount, grants=grants, reason="member_removed")


def close_if_due(work: Work, pipeline: Pipeline | None) -> Pipeline | None:
    """Close a hold whose time is over, whether or not the sweeper has come by."""
    if pipeline is None or pipeline.hold is None or not pipeline.hold.is_due(work.now):
        return pipeline
    return close_hold(work, pipeline, due_reason(pipeline.hold))


def open_hold(pipeline: Pipeline | None, now: datetime) -> Hold | None:
    """Give the pipeline's hold if it still reserves: not closed, and its time not over."""
    hold = pipeline.hold if pipeline else None
    return hold if hold and hold.state != "closed" and now < hold.expires_at else None


def owned_pipeline(work: Work, key: bytes, user: str, org: str | None) -> Pipeline | None:
    """Give the pipeline that an event of `user` (and `org`, if it names one) is about.

    Raises Rejected `payer_mismatch` while the pipeline's hold reserves credits of somebody else.
    Once it is closed the pipeline_id may have been used anew: what others say is not about it.
    """
    pipeline = work.state.pipelines.get(key)
    if pipeline is None or pipeline.hold is None:
        return pipeline
    if user == pipeline.user and org in {None, pipeline.org}:
        return pipeline
    if open_hold(pipeline, work.now):
        message = "the pipeline's hold is for another user or org than this event names"
        raise Rejected("payer_mismatch", message)
    return None


def due_reason(hold: Hold) -> str:
    """Say why a due hold is released: its pipeline had `finished`, or it `expired`."""
    return "finished" if hold.state == "closing" else "expired"


def close_if_settled(work: Work, pipeline: Pipeline) -> Pipeline:
    """Close a finished pipeline's hold once all the usage it announced has settled."""
    hold = pipeline.hold
    if hold is None or hold.state != "closing" or hold.usage_expected is None:
        return pipeline
    if hold.usage_settled < hold.usage_expected:
        return pipeline
    return close_hold(work, pipeline, "finished")


def extend(work: Work, pipeline: Pipeline) -> Pipeline:
    """Progress gives a live hold a whole new TTL."""
    hold = pipeline.hold
    if hold is None or hold.state != "live":
        return pipeline
    until: datetime = max(hold.expires_at, work.now + work.state.rules.hold_ttl)
    return work.put(replace(pipeline, hold=replace(hold, expires_at=until)))
