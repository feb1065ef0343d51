"""Messages of Lago: who may send them, money once, and tiers whatever the order."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from itertools import permutations
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from joserfc.jwk import RSAKey
from tests.helpers.acting import sound
from tests.helpers.lago import (
    ORGANIZATION,
    add_on,
    bill_of,
    body_of,
    by_hmac,
    by_jwt,
    invoice,
    message,
    new_id,
    over,
    subscription,
    wallet_transaction,
)
from tests.integration.gateway.calling import Town
from tests.integration.gateway.lago_world import Office, office

from faregate.ledger import acts
from faregate.ledger.core import Rules
from faregate.ledger.store import open_store

pytestmark = pytest.mark.stack

some = settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
Message = dict[str, Any]


@pytest.fixture
async def lago(pool: asyncpg.Pool) -> AsyncIterator[Office]:
    async with office(await open_store(pool, Rules(provisioning="manual"))) as found:
        yield found


async def untouched(lago: Office) -> None:
    """Nothing was decided, and nothing kept."""
    pool = lago.store.pool
    for table in ("entries", "outcomes", "lago_subscriptions", "lago_tiers"):
        assert await pool.fetchval(f"SELECT count(*) FROM {table}") == 0, table


async def test_only_what_lago_has_signed_is_taken(lago: Office) -> None:
    paid = body_of(wallet_transaction("user:ada"))
    forged: list[tuple[bytes, dict[str, str]]] = [
        (paid, {}),
        (paid, by_hmac(paid, "another key")),
        (paid, by_hmac(b"{}")),
        (paid.replace(b'"100.0"', b'"900.0"'), by_hmac(paid)),
        (paid, {**by_hmac(paid), "X-Lago-Signature-Algorithm": "jwt"}),
        (paid, by_jwt(paid, RSAKey.generate_key(2048, private=True))),
    ]
    for body, signed in forged:
        reply = await lago.nobody.post("/webhooks/lago", raw=body, headers=signed)
        assert reply.problem == (401, "signature_invalid")
    await untouched(lago)


async def test_what_is_no_message_is_refused_although_it_is_signed(lago: Office) -> None:
    for body in (b"", b"{", b"[]", b"7", b'{"webhook_type": 7}', b"[" * 100, b"\xff"):
        reply = await lago.nobody.post("/webhooks/lago", raw=body, headers=by_hmac(body))
        assert reply.problem == (400, "validation_failed"), body
    text = body_of(wallet_transaction("user:ada"))
    plain = {**by_hmac(text), "Content-Type": "text/plain"}
    reply = await lago.nobody.post("/webhooks/lago", raw=text, headers=plain)
    assert reply.problem == (415, "unsupported_media_type")
    await untouched(lago)


async def test_without_settings_there_are_no_webhooks(here: Town) -> None:
    body = body_of(wallet_transaction("user:ada"))
    reply = await here.nobody.post("/webhooks/lago", raw=body, headers=by_hmac(body, ""))
    assert reply.problem == (404, "not_found")


async def test_a_jwt_of_the_same_lago_from_another_organization_is_refused(
    pool: asyncpg.Pool,
) -> None:
    key = RSAKey.generate_key(2048, private=True)
    pem = key.as_pem(private=False).decode()
    store = await open_store(pool, Rules(provisioning="manual"))
    jwt = {"signature": "jwt", "public_key": pem, "organization": ORGANIZATION}
    async with office(store, hmac_key=None, **jwt) as lago:
        theirs = {**wallet_transaction("user:ada"), "organization_id": new_id()}
        nobodys = {n: v for n, v in theirs.items() if n != "organization_id"}
        for payload in (theirs, nobodys):
            body = body_of(payload)
            refused = await lago.nobody.post("/webhooks/lago", raw=body, headers=by_jwt(body, key))
            assert refused.problem == (401, "signature_invalid")
        await untouched(lago)
        body = body_of(wallet_transaction("user:ada"))
        taken = await lago.nobody.post("/webhooks/lago", raw=body, headers=by_jwt(body, key))
        assert (taken.status, taken["result"]) == (200, "applied")
        assert await lago.account("user:ada") == ("free", 200)


async def test_a_subscription_is_followed_from_its_start_to_its_end(lago: Office) -> None:
    starter = subscription("user:ada", "starter", started=1)
    assert await lago.did(starter) == ("applied", None)
    assert await lago.account("user:ada") == ("starter", 20)
    pro = subscription("user:ada", "pro-monthly", started=2, previous_plan_code="starter")
    assert await lago.did(over(starter)) == ("applied", None)
    assert await lago.did(pro) == ("applied", None)
    assert await lago.account("user:ada") == ("professional", 60)
    assert await lago.did(over(pro)) == ("applied", None)
    assert await lago.account("user:ada") == ("free", 0)
    logged = await lago.store.pool.fetch("SELECT actor, action FROM audit")
    assert {tuple(row) for row in logged} == {("lago", "set_tier")}
    await sound(lago.store)


def history(customer: str, *, ended: bool) -> list[Message]:
    """Starter, then professional, then enterprise; and perhaps the end of that."""
    starter = subscription(customer, "starter", started=1)
    pro = subscription(customer, "professional", started=2, previous_plan_code="starter")
    top = subscription(customer, "enterprise", started=3, previous_plan_code="professional")
    told = [starter, over(starter), pro, over(pro), top]
    return [*told, over(top)] if ended else told


async def test_every_order_of_an_upgrade_comes_to_the_same_tier_and_balance(lago: Office) -> None:
    """The end of the plan in the middle is lost."""
    orders = list(permutations((0, 1, 2, 4)))
    for n, order in enumerate(orders):
        told = history(f"user:u{n}", ended=False)
        for number in order:
            await lago.did(told[number])
    rows = await lago.store.pool.fetch("SELECT balance, plan ->> 'tier' AS tier FROM accounts")
    assert len(rows) == len(orders) == 24
    assert {(row["tier"], row["balance"]) for row in rows} == {("enterprise", 999_999_990_000)}
    await sound(lago.store)


@some
@given(ended=st.booleans(), again=st.lists(st.integers(0, 4), max_size=4), data=st.data())
async def test_whatever_comes_late_or_again_the_last_state_is_the_same(
    lago: Office, ended: bool, again: list[int], data: st.DataObject
) -> None:
    subject = f"user:{uuid4()}"
    told = history(subject, ended=ended)
    for number in data.draw(st.permutations([*range(len(told)), *again])):
        await lago.did(told[number])
    assert await lago.account(subject) == (("free", 0) if ended else ("enterprise", 999_999.99))
    before = await lago.kinds(subject)
    for one in told:
        assert await lago.did(one) == ("unchanged", "same_tier")
    assert await lago.kinds(subject) == before


async def test_messages_at_the_same_time_in_two_processes_come_to_the_same(
    lago: Office, pool: asyncpg.Pool
) -> None:
    other_store = await open_store(pool, Rules(provisioning="manual"))
    async with office(other_store) as other:
        for n in range(4):
            told = history(f"user:p{n}", ended=n % 2 == 0) * 2
            random.Random(n).shuffle(told)
            sent = [(lago if i % 2 else other).did(one) for i, one in enumerate(told)]
            await asyncio.gather(*sent)
            tier = "free" if n % 2 == 0 else "enterprise"
            assert (await lago.account(f"user:p{n}"))[0] == tier
    await sound(lago.store)


async def test_a_process_that_is_slow_does_not_undo_what_another_has_done_since(
    lago: Office, pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, pro, _, top = history("user:ada", ended=False)
    goes_on, real = asyncio.Event(), lago.store.apply

    async def slow(*given: Any, **more: Any) -> Any:
        await goes_on.wait()
        return await real(*given, **more)

    monkeypatch.setattr(lago.store, "apply", slow)
    async with office(await open_store(pool, Rules(provisioning="manual"))) as other:
        first = asyncio.create_task(lago.did(pro))
        await asyncio.sleep(0.3)
        second = asyncio.create_task(other.did(top))
        await asyncio.sleep(0.3)
        goes_on.set()
        assert [await first, await second] == [("applied", None)] * 2
        assert (await lago.account("user:ada"))[0] == "enterprise"


async def test_an_end_that_comes_before_its_start_stays_the_end(lago: Office) -> None:
    pro = subscription("user:ada", "professional")
    await acts.set_tier(lago.store, "user:ada", "trial", actor="ops", key="t")
    assert await lago.did(over(pro)) == ("applied", None)
    assert await lago.did(pro) == ("unchanged", "same_tier")
    assert (await lago.account("user:ada"))[0] == "free"


async def test_a_lost_end_of_the_plan_before_does_not_bring_it_back(lago: Office) -> None:
    starter, pro = (subscription("org:acme", p, started=n) for n, p in ((1, "starter"), (2, "pro")))
    pro["subscription"]["plan_code"] = "professional"
    for one in (starter, pro, over(pro)):
        await lago.did(one)
    assert (await lago.account("org:acme"))[0] == "free"


async def test_of_several_subscriptions_the_one_that_started_last_counts(lago: Office) -> None:
    first = subscription("org:acme", "starter", started=1, external_id="a")
    second = subscription("org:acme", "professional", started=2, external_id="b")
    for order in ((first, second), (second, first)):
        for one in order:
            await lago.did(one)
        assert (await lago.account("org:acme"))[0] == "professional"
    await lago.did(over(second))
    assert (await lago.account("org:acme"))[0] == "starter"


async def test_a_plan_that_changes_in_place_is_followed_and_never_back(lago: Office) -> None:
    starter = subscription("user:ada", "starter")
    changed = {**starter["subscription"], "plan_code": "professional"}
    upgraded = message("subscription.updated", "subscription", changed)
    await lago.did(starter)
    assert await lago.did(upgraded) == ("applied", None)
    assert await lago.did(starter) == ("unchanged", "same_tier")
    assert await lago.account("user:ada") == ("professional", 60)


async def test_a_tier_that_an_admin_has_set_stays_until_lago_says_something_new(
    lago: Office,
) -> None:
    pro = subscription("user:ada", "professional")
    await lago.did(pro)
    await acts.set_tier(lago.store, "user:ada", "enterprise", actor="ops", key="gift")
    assert await lago.did(pro) == ("unchanged", "same_tier")
    assert (await lago.account("user:ada"))[0] == "enterprise"
    await lago.did(over(pro))
    assert (await lago.account("user:ada"))[0] == "free"


async def test_plans_without_a_tier_are_ignored_and_unknown_ones_refused(lago: Office) -> None:
    assert await lago.did(subscription("user:ada", "support")) == ("ignored", "plan_without_tier")
    unknown = subscription("user:ada", "golden")
    for one in (unknown, over(unknown)):
        assert (await lago.send(one)).problem == (422, "unknown_plan")
    await untouched(lago)


async def test_a_top_up_is_granted_once_for_ever(lago: Office) -> None:
    pending = wallet_transaction("user:ada", type_="created", status="pending")
    paid = {**pending, "webhook_type": "wallet_transaction.updated"}
    paid["wallet_transaction"] = {**pending["wallet_transaction"], "status": "settled"}
    assert await lago.did(pending) == ("ignored", "not_paid")
    assert await lago.did(paid) == ("applied", None)
    for late in (paid, paid, pending):
        assert (await lago.did(late))[0] in {"unchanged", "ignored"}
    assert await lago.account("user:ada") == ("free", 200)
    assert await lago.kinds("user:ada") == ["purchase"]
    (grant,) = await lago.store.pool.fetch("SELECT source FROM grants")
    assert grant["source"] == "lago"
    await sound(lago.store)


async def test_the_same_money_as_invoice_and_as_top_up_is_granted_once(lago: Office) -> None:
    for order in permutations(range(3)):
        org = f"org:acme-{order}"
        paid = wallet_transaction(org, "50.0")
        bill = bill_of(paid)
        told = [paid, bill, {**bill, "webhook_type": "invoice.paid_credit_added"}]
        done = [(await lago.did(told[number]))[0] for number in order]
        assert done == ["applied", "unchanged", "unchanged"]
        assert await lago.account(org) == ("free", 100)
    await sound(lago.store)


async def test_the_same_money_at_the_same_time_is_granted_once(lago: Office) -> None:
    paid = wallet_transaction("org:acme", "50.0")
    done = await asyncio.gather(*(lago.did(x) for x in [paid, bill_of(paid)] * 10))
    assert sorted(result for result, _ in done) == ["applied", *["unchanged"] * 19]
    assert await lago.account("org:acme") == ("free", 100)


async def test_a_paid_invoice_buys_what_its_add_ons_are_and_once(lago: Office) -> None:
    bought = invoice("org:acme", [add_on("credits-100", "3.0"), add_on("setup", "1.0")])
    unpaid = {**bought, "invoice": {**bought["invoice"], "payment_status": "pending"}}
    assert await lago.did(unpaid) == ("ignored", "not_paid")
    assert await lago.did(bought) == ("applied", None)
    again = {**bought, "webhook_type": "invoice.resynced"}
    assert await lago.did(again) == ("unchanged", "granted_before")
    assert await lago.account("org:acme") == ("free", 300)
    await sound(lago.store)


async def test_money_that_is_said_to_be_another_amount_later_is_not_granted_again(
    lago: Office,
) -> None:
    paid = wallet_transaction("user:ada", "50.0")
    await lago.did(paid)
    for changed in ({"credit_amount": "90.0"}, {"wallet": {"external_customer_id": "user:eve"}}):
        other = {**paid, "wallet_transaction": {**paid["wallet_transaction"], **changed}}
        assert await lago.did(other) == ("unchanged", "granted_otherwise_before")
    assert await lago.account("user:ada") == ("free", 100)
    assert (await lago.account("user:eve"))[1] == 0


async def test_what_was_taken_back_in_lago_is_said_and_takes_no_credits(lago: Office) -> None:
    bought = invoice("org:acme", [add_on("credits-100", "3.0")])
    await lago.did(bought)
    voided = {**bought, "webhook_type": "invoice.voided"}
    assert await lago.did(voided) == ("ignored", "not_taken_back")
    lost = message("invoice.payment_dispute_lost", "payment_dispute_lost", {"lago_id": new_id()})
    assert await lago.did(lost) == ("ignored", "not_taken_back")
    assert await lago.account("org:acme") == ("free", 300)


async def test_a_customer_is_the_user_or_the_org_of_that_id(lago: Office) -> None:
    boss = await lago.town.person()
    org = await lago.town.org(boss)
    for customer, subject in (
        (boss.user_id, f"user:{boss.user_id}"),
        (f"user:{boss.user_id}", f"user:{boss.user_id}"),
        (org, f"org:{org}"),
        ("user:new", "user:new"),
        ("org:new-org", "org:new-org"),
    ):
        before = (await lago.account(subject))[1]
        assert await lago.did(wallet_transaction(customer, "1.0")) == ("applied", None)
        assert (await lago.account(subject))[1] == before + 2


async def test_a_customer_who_is_nobody_or_two_is_refused_and_can_be_sent_again(
    lago: Office,
) -> None:
    paid = wallet_transaction("cust-1", "1.0")
    for one in (paid, subscription("cust-1", "starter")):
        assert (await lago.send(one)).problem == (422, "unknown_customer")
    await lago.town.set_balance("org:cust-1", 5)
    assert await lago.did(paid) == ("applied", None)
    assert await lago.account("org:cust-1") == ("free", 7)
    await lago.town.set_balance("user:cust-1", 5)
    two = await lago.send(wallet_transaction("cust-1", "1.0"))
    assert two.problem == (422, "unknown_customer")
    assert (await lago.account("org:cust-1"), await lago.account("user:cust-1")) == (
        ("free", 7),
        ("free", 5),
    )


async def test_the_settings_say_whose_an_unknown_id_is(pool: asyncpg.Pool) -> None:
    store = await open_store(pool, Rules(provisioning="manual"))
    for kind in ("user", "org"):
        async with office(store, unknown_customer=kind) as lago:
            assert await lago.did(wallet_transaction(f"a-{kind}", "1.0")) == ("applied", None)
            assert await lago.account(f"{kind}:a-{kind}") == ("free", 2)


async def test_while_the_database_is_away_lago_is_told_to_come_again(
    lago: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    paid, pro = wallet_transaction("user:ada", "1.0"), subscription("user:ada", "professional")

    async def away(*_: Any, **__: Any) -> None:
        raise ConnectionRefusedError

    with monkeypatch.context() as broken:
        broken.setattr(lago.store, "apply", away)
        for one in (paid, pro):
            assert (await lago.send(one)).problem == (503, "check_unavailable")
    assert await lago.did(paid) == ("applied", None)
    assert await lago.did(pro) == ("applied", None)
    assert await lago.account("user:ada") == ("professional", 62)


async def test_every_message_is_counted(lago: Office) -> None:
    await lago.did(wallet_transaction("user:ada"))
    await lago.did(message("customer.created", "customer", {"lago_id": "x"}))
    await lago.send(subscription("user:ada", "golden"))
    found = lago.town.gateway.metrics.text().decode()
    for line in (
        'faregate_lago_webhooks_total{object="wallet_transaction",result="applied"} 1.0',
        'faregate_lago_webhooks_total{object="other",result="ignored"} 1.0',
        'faregate_lago_webhooks_total{object="subscription",result="refused"} 1.0',
    ):
        assert line in found
