"""What people read: why a request was denied, and what would help."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from faregate.events.amounts import format_credits

Body = Mapping[str, Any]


def denial_message(body: Body) -> str:
    """Write the message of a denial from its outcome's body (subjects already filled in)."""
    return _MESSAGES.get(body["reason"], _money_message)(body)


def _unknown_pipeline(body: Body) -> str:
    return (
        f"The price book knows no pipeline {body['pipeline']!r}. Name the phases in the "
        "request, or add the pipeline with: faregate prices apply FILE."
    )


def _unknown_price(body: Body) -> str:
    phases = ", ".join(body["phases"])
    return (
        f"At least one of these phases has no price: {phases}. An unknown price is never "
        "zero; add it with: faregate prices apply FILE."
    )


def _request_expired(_body: Body) -> str:
    return "The request's expires_at had passed before it could be decided. Send a new one."


def _quota_exceeded(body: Body) -> str:
    return (
        f"All {body['calls']:,} calls of this period are used. Wait until {body['resets_at']}, "
        "or move to a tier with more calls."
    )


def _no_allocation(body: Body) -> str:
    org = body["considered"][0]["payer"]
    return f"{org} has allocated no credits to this user. Ask its admin for an allocation."


def _allocation_exhausted(body: Body) -> str:
    org, left = body["considered"][0]["payer"], format_credits(body["allocation"])
    return (
        f"{format_credits(body['required'])} credits are required, {left} are left of what {org} "
        "has allocated to this user. Ask its admin for a larger allocation."
    )


def _money_message(body: Body) -> str:
    has = " and ".join(
        f"{c['payer']} has {format_credits(c['available'])}" for c in body["considered"]
    )
    text = f"{format_credits(body['required'])} credits are required, {has}."
    if body["debts"]:
        text += (
            f" Usage is still owed by {' and '.join(body['debts'])}: a purchase pays that first."
        )
    payers = " or ".join(c["payer"] for c in body["considered"])
    text += f" Buy credits for {payers}"
    if body["held"] and not body["debts"]:
        text += ", or wait until held credits are released"
    return f"{text}."


_MESSAGES: Mapping[str, Callable[[Body], str]] = {
    "unknown_pipeline": _unknown_pipeline,
    "unknown_price": _unknown_price,
    "request_expired": _request_expired,
    "quota_exceeded": _quota_exceeded,
    "no_allocation": _no_allocation,
    "allocation_exhausted": _allocation_exhausted,
}
