"""Messages as Lago publishes them, and their signatures.

https://getlago.com/docs/api-reference/webhooks/messages
"""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any
from uuid import uuid4

from joserfc import jwt
from joserfc.jwk import RSAKey

HMAC_KEY = "4b7d6a1e-hmac-signature-token"
ORGANIZATION = "1a901a90-1a90-1a90-1a90-1a901a901a90"
ISSUER = "https://api.getlago.com"
_START = datetime(2026, 3, 1, 10, tzinfo=UTC)


def new_id() -> str:
    return str(uuid4())


def hours(count: float) -> str:
    """A moment so many hours after the start, with the precision that Lago has."""
    return (_START + timedelta(hours=count)).isoformat(timespec="milliseconds")


def message(webhook_type: str, object_type: str, found: Any) -> dict[str, Any]:
    return {
        "webhook_type": webhook_type,
        "object_type": object_type,
        "organization_id": ORGANIZATION,
        object_type: found,
    }


def subscription(
    customer: str,
    plan: str,
    *,
    type_: str = "started",
    status: str = "active",
    started: float = 0,
    lago_id: str | None = None,
    external_id: str = "sub",
    **more: Any,
) -> dict[str, Any]:
    """`subscription.started`, `.updated`, `.terminated`."""
    found = {
        "lago_id": lago_id or new_id(),
        "external_id": external_id,
        "lago_customer_id": new_id(),
        "external_customer_id": customer,
        "name": "",
        "plan_code": plan,
        "status": status,
        "billing_time": "anniversary",
        "subscription_at": hours(0),
        "started_at": hours(started),
        "terminated_at": hours(started + 1) if status == "terminated" else None,
        "canceled_at": None,
        "created_at": hours(started),
        "previous_plan_code": None,
        "next_plan_code": None,
        "downgrade_plan_date": None,
        **more,
    }
    return message(f"subscription.{type_}", "subscription", found)


def over(started: Mapping[str, Any]) -> dict[str, Any]:
    """The end of a subscription that has started."""
    found = {**started["subscription"], "status": "terminated", "terminated_at": hours(99)}
    return message("subscription.terminated", "subscription", found)


def wallet_transaction(
    customer: str, credits_: str = "100.0", *, type_: str = "updated", **more: Any
) -> dict[str, Any]:
    """`wallet_transaction.created` and `.updated`: by default a top-up that has been paid."""
    found = {
        "lago_id": new_id(),
        "lago_wallet_id": new_id(),
        "lago_invoice_id": new_id(),
        "lago_credit_note_id": None,
        "lago_voided_invoice_id": None,
        "status": "settled",
        "source": "manual",
        "transaction_status": "purchased",
        "transaction_type": "inbound",
        "amount": "10.0",
        "credit_amount": credits_,
        "settled_at": hours(1),
        "failed_at": None,
        "created_at": hours(0),
        "wallet": {"lago_id": new_id(), "external_customer_id": customer, "rate_amount": "0.1"},
        **more,
    }
    return message(f"wallet_transaction.{type_}", "wallet_transaction", found)


def invoice(
    customer: str,
    fees: list[dict[str, Any]],
    *,
    kind: str = "one_off",
    type_: str = "payment_status_updated",
    **more: Any,
) -> dict[str, Any]:
    """`invoice.payment_status_updated` and others: by default one that has been paid."""
    found = {
        "lago_id": new_id(),
        "number": "LAG-1234-001-002",
        "issuing_date": "2026-03-01",
        "invoice_type": kind,
        "status": "finalized",
        "payment_status": "succeeded",
        "currency": "EUR",
        "fees_amount_cents": 1000,
        "total_amount_cents": 1000,
        "customer": {"lago_id": new_id(), "external_id": customer, "name": "Ada"},
        "fees": fees,
        **more,
    }
    return message(f"invoice.{type_}", "invoice", found)


def add_on(code: str, units: str) -> dict[str, Any]:
    """A line of an invoice of the type `one_off`."""
    item = {"type": "add_on", "code": code, "name": code, "item_type": "AddOn"}
    return {"lago_id": new_id(), "item": item, "units": units, "amount_cents": 1000}


def bill_of(topped_up: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """The invoice of the type `credit` for a top-up."""
    found = topped_up["wallet_transaction"]
    item = {"type": "credit", "code": "credit", "lago_item_id": found["lago_id"]}
    line = {
        "lago_id": new_id(),
        "item": {**item, "item_type": "WalletTransaction"},
        "units": found["credit_amount"],
        "amount_cents": 1000,
    }
    customer = found["wallet"]["external_customer_id"]
    return invoice(customer, [line], kind="credit", **{"lago_id": found["lago_invoice_id"], **more})


def by_hmac(body: bytes, key: str = HMAC_KEY) -> dict[str, str]:
    """The headers of a message that is signed by HMAC."""
    digest = hmac.new(key.encode(), body, sha256).digest()
    return headers("hmac", base64.b64encode(digest).decode())


def by_jwt(body: bytes, key: RSAKey, **claims: Any) -> dict[str, str]:
    """The headers of a message that is signed by a JWT."""
    said = {"data": body.decode(), "iss": ISSUER, **claims}
    return headers("jwt", jwt.encode({"alg": "RS256"}, said, key, algorithms=["RS256"]))


def headers(algorithm: str, signature: str) -> dict[str, str]:
    return {
        "X-Lago-Signature": signature,
        "X-Lago-Signature-Algorithm": algorithm,
        "X-Lago-Unique-Key": new_id(),
    }


def body_of(payload: Any) -> bytes:
    return json.dumps(payload, separators=(",", ":")).encode()
