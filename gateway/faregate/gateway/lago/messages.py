"""What Lago's messages mean: a subscription's state, a purchase, or nothing to us.

Payloads are those that Lago publishes:

- https://getlago.com/docs/api-reference/webhooks/messages
- https://getlago.com/docs/api-reference/subscriptions/subscription-object
- https://getlago.com/docs/api-reference/invoices/invoice-object
- https://getlago.com/docs/api-reference/wallets/wallet-transaction-object

A message is read by the state of the object in it, not by its name: what a state means is the same
whichever message brings it, in whatever order they come.

**Money.** A top-up is the wallet transaction, once it is `settled`. Lago bills it with an invoice of
the type `credit`, whose fee names that transaction (`item.lago_item_id`): both carry the
transaction's id, so the same money is granted once, whichever comes first. An invoice of the type
`one_off` buys what the settings say of its add-ons. What a subscription costs buys its tier and no
credits. An invoice that a credit note has settled was not paid.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from typing import Any, Literal

from faregate.events.fields import ID_MAX_CHARS, ID_PATTERN, find_unsafe, parse_time
from faregate.gateway.lago.settings import LagoSettings
from faregate.gateway.problems import Problem, invalid

_ID = re.compile(r"[A-Za-z0-9_-]{1,100}")
_NUMBER = re.compile(r"[0-9]{1,30}(\.[0-9]{0,30})?")
_BY_OBJECT = ("subscription", "invoice", "wallet_transaction")
_TOP_UPS = ("purchased", "granted")
_TAKEN_BACK = ("invoice.voided", "invoice.payment_dispute_lost")
Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Subscription:
    """The state of one subscription. A change of plan is another one with the same external id."""

    lago_id: str
    external_id: str
    customer: str
    plan_code: str
    started_at: datetime
    created_at: datetime
    ended: bool


@dataclass(frozen=True, slots=True)
class Purchase:
    """Credits that were paid for (`bonus`: given for free). `key` names the money, for ever."""

    key: str
    customer: str
    micro: int
    kind: Literal["purchase", "bonus"] = "purchase"


@dataclass(frozen=True, slots=True)
class Nothing:
    """A message that changes nothing here, and why."""

    reason: str


Meaning = Subscription | Purchase | Nothing


def read(payload: Any, settings: LagoSettings) -> Meaning:
    """Read a message. Raises Problem `validation_failed`, `unknown_customer`."""
    if not isinstance(payload, Mapping):
        raise invalid("body", "send a JSON object")
    webhook_type = _text(payload, "webhook_type")
    if webhook_type in _TAKEN_BACK:
        return Nothing("not_taken_back")
    object_type = payload.get("object_type")
    if object_type not in _BY_OBJECT:
        return Nothing("event_not_used")
    found = payload.get(object_type)
    if not isinstance(found, Mapping):
        raise invalid(object_type, "the object is missing")
    if object_type == "subscription":
        return _subscription(found, webhook_type)
    if object_type == "invoice":
        return _invoice(found, settings)
    return _wallet_transaction(found, settings)


def kind_of(payload: Any) -> str:
    """Give the kind of object in a message: for metrics, so one of a few words."""
    found = payload.get("object_type") if isinstance(payload, Mapping) else None
    return found if found in _BY_OBJECT else "other"


def _subscription(found: Object, webhook_type: str) -> Meaning:
    """Read a subscription: `active` is in force, `terminated` is over, others never began."""
    status = _text(found, "status")
    ended = status == "terminated" or webhook_type == "subscription.terminated"
    if status != "active" and not ended:
        return Nothing("not_active")
    lago_id, created_at = _id(found), _time(found, "created_at")
    return Subscription(
        lago_id,
        _text(found, "external_id"),
        customer_of(found.get("external_customer_id")),
        _text(found, "plan_code"),
        _time(found, "started_at") if found.get("started_at") else created_at,
        created_at,
        ended,
    )


def _invoice(found: Object, settings: LagoSettings) -> Meaning:
    """Read an invoice: one that is `finalized` and whose payment has `succeeded`, and not before."""
    lago_id, kind = _id(found), _text(found, "invoice_type")
    if kind not in {"credit", "one_off", "add_on"}:
        return Nothing("invoice_buys_no_credits")
    if (found.get("status"), found.get("payment_status")) != ("finalized", "succeeded"):
        return Nothing("not_paid")
    if found.get("total_offsetted_credit_note_amount_cents"):
        return Nothing("settled_by_credit_note")
    fees = found.get("fees")
    lines = [f for f in fees if isinstance(f, Mapping)] if isinstance(fees, list) else []
    bought = _topped_up(lines, settings) if kind == "credit" else _added(lago_id, lines, settings)
    if bought is None:
        return Nothing("no_credits_in_it")
    key, micro = bought
    customer = found.get("customer")
    named = customer.get("external_id") if isinstance(customer, Mapping) else None
    return Purchase(key, customer_of(named), micro)


def _topped_up(lines: list[Object], settings: LagoSettings) -> tuple[str, int] | None:
    """Find the wallet transaction that an invoice of the type `credit` bills, and its credits."""
    for line in lines:
        item = _item(line)
        if item.get("item_type") == "WalletTransaction":
            micro = _micro(line, "units", settings.wallet_credit_micro)
            return (_transaction(_id(item, "lago_item_id")), micro) if micro else None
    return None


def _added(lago_id: str, lines: list[Object], settings: LagoSettings) -> tuple[str, int] | None:
    """Add up what an invoice's add-ons buy."""
    micro = 0
    for line in lines:
        item = _item(line)
        code = item.get("code")
        if isinstance(code, str) and code in settings.add_ons and item.get("type") == "add_on":
            micro += _micro(line, "units", settings.add_ons[code])
    return (f"invoice {lago_id}", micro) if micro else None


def _item(line: Object) -> Object:
    item = line.get("item")
    return item if isinstance(item, Mapping) else {}


def _wallet_transaction(found: Object, settings: LagoSettings) -> Meaning:
    """Read a wallet transaction: one that is `settled` and brings credits in."""
    lago_id = _id(found)
    source = found.get("transaction_status")
    if found.get("transaction_type") != "inbound" or source not in _TOP_UPS:
        return Nothing("no_top_up")
    if found.get("status") != "settled":
        return Nothing("not_paid")
    if found.get("lago_voided_invoice_id"):
        return Nothing("given_back_by_lago")
    micro = _micro(found, "credit_amount", settings.wallet_credit_micro)
    if not micro:
        return Nothing("no_credits_in_it")
    wallet = found.get("wallet")
    named = wallet.get("external_customer_id") if isinstance(wallet, Mapping) else None
    kind: Literal["purchase", "bonus"] = "purchase" if source == "purchased" else "bonus"
    return Purchase(_transaction(lago_id), customer_of(named), micro, kind)


def _transaction(lago_id: str) -> str:
    return f"wallet_transaction {lago_id}"


def customer_of(external_id: object) -> str:
    """Check the external id of a customer. Raises Problem `unknown_customer`."""
    if not isinstance(external_id, str):
        raise Problem("unknown_customer", "The message does not name the customer's external id.")
    if len(external_id) > ID_MAX_CHARS or not re.search(ID_PATTERN, external_id):
        raise Problem("unknown_customer", "The customer's external id cannot be the id of anybody.")
    return external_id


def _micro(found: Object, name: str, each: int) -> int:
    """Read a number of units (a text such as "100.0") as micro-credits, rounded down."""
    text = str(found.get(name))
    if not _NUMBER.fullmatch(text):
        raise invalid(name, "send a number such as 100.0")
    return int(Fraction(text) * each)


def _text(found: Object, name: str) -> str:
    value = found.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= ID_MAX_CHARS or find_unsafe(value):
        raise invalid(name, f"send a text of at most {ID_MAX_CHARS} characters")
    return value


def _id(found: Object, name: str = "lago_id") -> str:
    value = found.get(name)
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise invalid(name, "send Lago's id of the object")
    return value.lower()


def _time(found: Object, name: str) -> datetime:
    try:
        return parse_time(found.get(name))
    except ValueError as error:
        raise invalid(name, str(error)) from None
