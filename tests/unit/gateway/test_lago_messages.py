"""What Lago's published messages mean, and that no money is read out of one that brings none."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from tests.helpers.lago import (
    add_on,
    bill_of,
    invoice,
    message,
    over,
    subscription,
    wallet_transaction,
)

from faregate.gateway.lago.messages import Nothing, Purchase, Subscription, read
from faregate.gateway.lago.settings import LagoSettings
from faregate.gateway.problems import Problem

SETTINGS = LagoSettings(add_ons={"credits-100": 100_000_000}, wallet_credit_micro=2_500_000)
CREDITS = [add_on("credits-100", "3.0"), add_on("setup", "1.0")]


def test_a_subscription_is_read_by_its_state_whatever_the_message_is_called() -> None:
    started = subscription("user:ada", "professional", started=2)
    said = read(started, SETTINGS)
    assert isinstance(said, Subscription)
    assert (said.customer, said.plan_code, said.ended) == ("user:ada", "professional", False)
    for type_ in ("updated", "trial_ended", "upgraded"):
        assert read({**started, "webhook_type": f"subscription.{type_}"}, SETTINGS) == said
    for end in (over(started), {**over(started), "webhook_type": "subscription.started"}):
        ended = read(end, SETTINGS)
        assert isinstance(ended, Subscription)
        assert ended.ended


@pytest.mark.parametrize("status", ["pending", "incomplete", "canceled"])
def test_a_subscription_that_never_was_in_force_is_nothing(status: str) -> None:
    said = subscription("user:ada", "professional", status=status)
    assert read(said, SETTINGS) == Nothing("not_active")


def test_a_top_up_and_its_invoice_are_one_purchase() -> None:
    paid = wallet_transaction("user:ada", "100.5")
    bought = read(paid, SETTINGS)
    assert bought == Purchase(
        f"wallet_transaction {paid['wallet_transaction']['lago_id']}", "user:ada", 251_250_000
    )
    assert read(bill_of(paid), SETTINGS) == bought


def test_credits_that_are_given_for_free_are_a_bonus() -> None:
    given = read(wallet_transaction("user:ada", "4", transaction_status="granted"), SETTINGS)
    assert isinstance(given, Purchase)
    assert (given.kind, given.micro) == ("bonus", 10_000_000)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"status": "pending"}, "not_paid"),
        ({"status": "failed"}, "not_paid"),
        ({"transaction_type": "outbound", "transaction_status": "invoiced"}, "no_top_up"),
        ({"transaction_type": "outbound", "transaction_status": "voided"}, "no_top_up"),
        ({"transaction_status": "voided"}, "no_top_up"),
        ({"transaction_status": "granted", "lago_voided_invoice_id": "x"}, "given_back_by_lago"),
        ({"credit_amount": "0.0"}, "no_credits_in_it"),
    ],
)
def test_a_wallet_transaction_that_brings_no_money_is_nothing(
    changed: dict[str, Any], reason: str
) -> None:
    assert read(wallet_transaction("user:ada", **changed), SETTINGS) == Nothing(reason)


def test_an_invoice_buys_what_the_settings_say_of_its_add_ons() -> None:
    paid = invoice("org:acme", CREDITS)
    bought = read(paid, SETTINGS)
    assert bought == Purchase(f"invoice {paid['invoice']['lago_id']}", "org:acme", 300_000_000)
    assert read({**paid, "webhook_type": "invoice.one_off_created"}, SETTINGS) == bought


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"payment_status": "pending"}, "not_paid"),
        ({"payment_status": "failed"}, "not_paid"),
        ({"status": "draft"}, "not_paid"),
        ({"status": "voided"}, "not_paid"),
        ({"invoice_type": "subscription"}, "invoice_buys_no_credits"),
        ({"invoice_type": "progressive_billing"}, "invoice_buys_no_credits"),
        ({"total_offsetted_credit_note_amount_cents": 1000}, "settled_by_credit_note"),
        ({"fees": [add_on("setup", "1.0")]}, "no_credits_in_it"),
        ({"fees": []}, "no_credits_in_it"),
        ({"fees": None}, "no_credits_in_it"),
        ({"invoice_type": "credit"}, "no_credits_in_it"),
    ],
)
def test_an_invoice_that_brings_no_money_is_nothing(changed: dict[str, Any], reason: str) -> None:
    assert read(invoice("org:acme", **{"fees": CREDITS, **changed}), SETTINGS) == Nothing(reason)


@pytest.mark.parametrize(
    ("type_", "object_type"),
    [
        ("invoice.payment_dispute_lost", "payment_dispute_lost"),
        ("invoice.payment_failure", "payment_provider_invoice_payment_error"),
        ("wallet_transaction.payment_failure", "payment_provider_wallet_transaction_payment_error"),
        ("customer.created", "customer"),
        ("wallet.updated", "wallet"),
        ("something.new", "something"),
    ],
)
def test_other_messages_are_nothing(type_: str, object_type: str) -> None:
    assert isinstance(read(message(type_, object_type, {"lago_id": "x"}), SETTINGS), Nothing)
    assert read({"webhook_type": type_}, SETTINGS).__class__ is Nothing


@pytest.mark.parametrize(
    ("units", "micro"), [("0.00001", 1_000), (Decimal("1.5"), 150_000_000), (2, 200_000_000)]
)
def test_units_are_read_exactly(units: Any, micro: int) -> None:
    bought = read(invoice("org:acme", [add_on("credits-100", units)]), SETTINGS)
    assert isinstance(bought, Purchase)
    assert bought.micro == micro


def test_less_than_a_micro_credit_is_rounded_down() -> None:
    tiny = LagoSettings(add_ons={"a": 1})
    bought = read(invoice("org:acme", [add_on("a", "1.99999")]), tiny)
    assert isinstance(bought, Purchase)
    assert bought.micro == 1


NO_TEXTS: tuple[Any, ...] = (None, "", 7, True, [], {}, "x" * 300, "a\x00b", "a\u202eb")


@pytest.mark.parametrize("value", NO_TEXTS, ids=repr)
@pytest.mark.parametrize("name", ["plan_code", "status", "external_id", "lago_id"])
def test_a_subscription_that_is_not_as_published_names_the_field(name: str, value: Any) -> None:
    wrong = subscription("user:ada", "professional")
    wrong["subscription"][name] = value
    with pytest.raises(Problem) as refused:
        read(wrong, SETTINGS)
    assert (refused.value.status, refused.value.more["errors"][0]["field"]) == (400, name)


@pytest.mark.parametrize("value", ["yesterday", 7, "2026-03-01", "2026-13-01T00:00:00Z"])
@pytest.mark.parametrize("name", ["created_at", "started_at"])
def test_a_time_that_is_none_names_the_field(name: str, value: Any) -> None:
    wrong = subscription("user:ada", "professional")
    wrong["subscription"][name] = value
    with pytest.raises(Problem) as refused:
        read(wrong, SETTINGS)
    assert refused.value.more["errors"][0]["field"] == name


@pytest.mark.parametrize(
    "value", [None, "", "-1", "1e9", "NaN", "1,5", True, [], Decimal("1e3"), "9" * 31], ids=repr
)
def test_a_number_that_is_none_names_the_field(value: Any) -> None:
    with pytest.raises(Problem) as refused:
        read(wallet_transaction("user:ada", credit_amount=value), SETTINGS)
    assert refused.value.more["errors"][0]["field"] == "credit_amount"


@pytest.mark.parametrize("value", [None, 7, "", " a", "a\u200bb", "x" * 300], ids=repr)
def test_money_for_a_customer_who_is_nobody_is_refused_not_lost(value: Any) -> None:
    paid = wallet_transaction(value)
    nameless = {**paid, "wallet_transaction": {**paid["wallet_transaction"], "wallet": None}}
    for wrong in (paid, nameless, invoice(value, CREDITS), subscription(value, "trial")):
        with pytest.raises(Problem) as refused:
            read(wrong, SETTINGS)
        assert (refused.value.status, refused.value.reason) == (422, "unknown_customer")


@pytest.mark.parametrize("payload", [None, [], "x", 7, {}, {"webhook_type": 7}], ids=repr)
def test_what_is_no_message_is_refused(payload: Any) -> None:
    with pytest.raises(Problem) as refused:
        read(payload, SETTINGS)
    assert refused.value.status == 400


@pytest.mark.parametrize("object_type", ["subscription", "invoice", "wallet_transaction"])
@pytest.mark.parametrize("found", [None, [], "x", {}], ids=repr)
def test_a_message_without_its_object_is_refused(object_type: str, found: Any) -> None:
    with pytest.raises(Problem) as refused:
        read(message(f"{object_type}.updated", object_type, found), SETTINGS)
    assert refused.value.status == 400


NASTY: tuple[Any, ...] = (None, True, -1, Decimal("1e999"), "", " ", "\ud800", [], {}, [[]], [None])


def changed(value: Any) -> Iterator[Any]:
    """The value with one part of it, however deep, replaced by something nasty."""
    yield from NASTY
    if isinstance(value, dict):
        for name, part in value.items():
            yield from ({**value, name: other} for other in changed(part))
            yield {n: v for n, v in value.items() if n != name}
    if isinstance(value, list):
        for n, part in enumerate(value):
            yield from ([*value[:n], other, *value[n + 1 :]] for other in changed(part))


@pytest.mark.parametrize("kind", ["subscription", "wallet_transaction", "credit", "one_off"])
def test_whatever_is_nasty_in_a_message_is_read_or_refused_and_never_a_fault(kind: str) -> None:
    paid = wallet_transaction("user:ada")
    good = {
        "subscription": subscription("user:ada", "professional"),
        "wallet_transaction": paid,
        "credit": bill_of(paid),
        "one_off": invoice("org:acme", CREDITS),
    }[kind]
    money = read(good, SETTINGS)
    for wrong in changed(good):
        try:
            said = read(wrong, SETTINGS)
        except Problem as refused:
            assert refused.status in {400, 422}
        else:
            if isinstance(said, Purchase) and isinstance(money, Purchase):
                assert said.micro <= money.micro
