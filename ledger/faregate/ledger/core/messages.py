"""What people read: why a request was denied, and what would help."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from faregate.events.amounts import format_credits


def denial_message(body: Mapping[str, Any]) -> str:
    """Write the message of a denial from its outcome's body (subjects already filled in)."""
    reason = body["reason"]
    if reason == "unknown_pipeline":
        return (
            f"The price book knows no pipeline {body['pipeline']!r}. Name the phases in the "
            "request, or add the pipeline with: faregate prices apply FILE."
        )
    if reason == "unknown_price":
        phases = ", ".join(body["phases"])
        return (
            f"At least one of these phases has no price: {phases}. An unknown price is never "
            "zero; add it with: faregate prices apply FILE."
        )
    if reason == "request_expired":
        return "The request's expires_at had passed before it could be decided. Send a new one."
    return _money_message(body)


def _money_message(body: Mapping[str, Any]) -> str:
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
