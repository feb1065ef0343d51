"""Taking charges back: once, however many ask at once, to the grants that they came from."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from tests.helpers.acting import by, refused, sound
from tests.helpers.ledger import Ledger, initiated
from tests.helpers.stores import several_stores

from faregate.consumers.sweeper import charge_unpriced
from faregate.ledger import acts, reading
from faregate.ledger.acts import Done
from faregate.ledger.erase import erase
from faregate.ledger.pricing import apply_prices
from faregate.ledger.reading_audit import audit
from faregate.ledger.reading_orgs import members
from faregate.ledger.store import Store
from faregate.testing.clocks import Clock

pytestmark = pytest.mark.stack

CREDIT = 1_000_000
ORG, ADA = "org:acme", "user:ada"
ASKERS = 20


async def balance(store: Store, subject: str) -> tuple[float, float]:
    found = await reading.account(store, subject)
    return found["balance"], found["debt"]


async def left(store: Store, subject: str) -> list[float]:
    return [g["remaining"] for g in await reading.grants(store, subject)]


async def test_a_refund_restores_the_grants_that_paid(store: Store) -> None:
    await acts.grant(store, ADA, "bonus", 3 * CREDIT, **by(), priority=1)
    await acts.grant(store, ADA, "purchase", 10 * CREDIT, **by())
    await Ledger(store).usage(user="ada", units=7, usage_id="u1")
    assert await left(store, ADA) == [0, 6]
    done = await acts.refund(store, usage_id="u1", **by(), reason="double_charge")
    assert (done.result, done.body["amount"], done.repeated) == ("refunded", 7 * CREDIT, False)
    assert await left(store, ADA) == [3, 10]
    (entry, *_) = await reading.history(store, ADA, 1)
    assert (entry["kind"], entry["amount"], entry["reason"]) == ("refund", 7, "double_charge")
    assert entry["grants"] == [{"number": 1, "amount": 3}, {"number": 2, "amount": 4}]
    await sound(store)


async def test_history_ties_a_refund_to_its_charge_until_somebody_is_erased(
    store: Store, owner: asyncpg.Connection
) -> None:
    await acts.set_balance(store, ADA, 10 * CREDIT, **by())
    await Ledger(store).usage("p1", user="ada", units=3, usage_id="u1")
    done = await acts.refund(store, usage_id="u1", **by())
    refund, charge, _ = await reading.history(store, ADA, 3)
    assert [refund[n] for n in ("kind", "usage_id", "pipeline_id")] == ["refund", "u1", "p1"]
    assert refund["charge_id"] == done.body["of"]
    assert "charge_id" not in charge
    await erase(owner, store.keys, ADA, by="root", force=True)
    rows = await store.pool.fetch(
        "SELECT e.*, r.pipeline_id, r.usage_id, r.correlation_id "
        "FROM entries e LEFT JOIN refs r ON r.outcome_id = e.outcome_id WHERE e.kind = 'refund'"
    )
    (refund,) = await reading.entries(store, rows)
    assert refund["charge_id"] == done.body["of"]
    assert not {"usage_id", "pipeline_id"} & set(refund)


async def test_a_refused_refund_is_logged_with_what_was_asked(store: Store) -> None:
    await acts.set_balance(store, ADA, 10 * CREDIT, **by())
    asked = acts.refund(store, entry_id=12345, subject=ADA, **by())
    assert await refused(asked) == "unknown_charge"
    asked = acts.refund(store, usage_id="of somebody", subject="user:nobody", **by())
    assert await refused(asked) == "unknown_charge"
    unknown, known, _ = await audit(store)
    assert (known["account"], known["metadata"]) == (ADA, {"entry_id": 12345})
    assert (unknown["account"], unknown["metadata"]) == (None, {})
    await sound(store)


async def test_a_refund_is_asked_for_once_by_twenty_with_different_keys(
    database_url: str,
) -> None:
    async with several_stores(database_url, 5, size=4) as stores:
        await acts.set_balance(stores[0], ADA, 10 * CREDIT, **by())
        await Ledger(stores[0]).usage(user="ada", units=4, usage_id="u1")
        done: list[Done] = await asyncio.gather(
            *(
                acts.refund(stores[n % 5], usage_id="u1", **by(key=f"asker {n}"))
                for n in range(ASKERS)
            )
        )
        assert Counter(d.repeated for d in done) == {False: 1, True: ASKERS - 1}
        assert len({(d.outcome_id, d.result, d.body["amount"]) for d in done}) == 1
        assert await balance(stores[0], ADA) == (10, 0)
        kinds = [e["kind"] for e in await reading.history(stores[0], ADA, 50)]
        assert kinds == ["refund", "usage", "adjustment"]
        assert [a["action"] for a in await audit(stores[0])] == ["refund", "set_balance"]
        await sound(stores[0])


async def test_by_usage_and_by_entry_it_is_the_same_refund(store: Store) -> None:
    await acts.set_balance(store, ADA, 10 * CREDIT, **by())
    await Ledger(store).usage(user="ada", units=4, usage_id="u1")
    (entry, *_) = await reading.history(store, ADA, 1)
    first = await acts.refund(store, usage_id="u1", **by())
    again = await acts.refund(store, entry_id=entry["id"], subject=ADA, **by())
    third = await acts.refund(store, outcome_id=first.body["of"], **by())
    assert (again.repeated, third.repeated) == (True, True)
    assert first.outcome_id == again.outcome_id == third.outcome_id
    assert await balance(store, ADA) == (10, 0)


async def test_what_came_from_a_grant_that_has_expired_expires_at_once(
    clocked: tuple[Store, Clock],
) -> None:
    store, clock = clocked
    await acts.grant(store, ADA, "purchase", 2 * CREDIT, **by(), expires_in=timedelta(hours=1))
    await acts.grant(store, ADA, "purchase", 5 * CREDIT, **by())
    await Ledger(store).usage(user="ada", units=3, usage_id="u1")
    assert await left(store, ADA) == [0, 4]
    await clock.advance(hours=2, settle=False)
    await acts.refund(store, usage_id="u1", **by())
    assert await left(store, ADA) == [0, 5]
    kinds = [(e["kind"], e["amount"]) for e in await reading.history(store, ADA, 2)]
    assert kinds == [("expiry", -2), ("refund", 3)]
    await sound(store)


async def test_a_refund_takes_the_debt_of_the_charge_back_first(store: Store) -> None:
    await acts.set_balance(store, ADA, 3 * CREDIT, **by())
    await Ledger(store).usage(user="ada", units=8, usage_id="u1")
    assert await balance(store, ADA) == (0, 5)
    await acts.refund(store, usage_id="u1", **by())
    assert await balance(store, ADA) == (3, 0)
    await sound(store)


async def test_debt_that_was_paid_meanwhile_comes_back_as_credits(store: Store) -> None:
    await Ledger(store).usage(user="ada", units=8, usage_id="u1")
    await acts.grant(store, ADA, "purchase", 6 * CREDIT, **by())
    assert await balance(store, ADA) == (0, 2)
    await acts.refund(store, usage_id="u1", **by())
    assert await balance(store, ADA) == (6, 0)
    assert (await reading.grants(store, ADA))[-1]["source"] == "refund"
    await sound(store)


async def test_a_refund_pays_other_debt_before_it_can_be_spent(store: Store) -> None:
    await acts.set_balance(store, ADA, 4 * CREDIT, **by())
    await Ledger(store).usage(user="ada", units=4, usage_id="u1")
    await Ledger(store).usage(user="ada", units=3, usage_id="u2")
    await acts.refund(store, usage_id="u1", **by())
    assert await balance(store, ADA) == (1, 0)
    await sound(store)


async def test_a_refund_in_an_allocated_org_gives_both_back(store: Store) -> None:
    await acts.set_balance(store, ORG, 20 * CREDIT, **by())
    await acts.set_policy(store, ORG, "allocated", **by())
    await acts.allocate(store, ORG, ADA, 10 * CREDIT, **by())
    await Ledger(store).usage(user="ada", org="acme", units=6, usage_id="u1")
    (member,) = await members(store, ORG)
    assert (member["used"], member["remaining"]) == (6, 4)
    await acts.refund(store, usage_id="u1", subject=ORG, **by())
    (member,) = await members(store, ORG)
    assert (member["used"], member["remaining"]) == (0, 10)
    assert await balance(store, ORG) == (20, 0)
    await sound(store)


async def test_the_member_who_was_removed_gets_no_allocation_back(store: Store) -> None:
    await acts.set_balance(store, ORG, 20 * CREDIT, **by())
    await acts.set_policy(store, ORG, "allocated", **by())
    await acts.allocate(store, ORG, ADA, 10 * CREDIT, **by())
    await Ledger(store).usage(user="ada", org="acme", units=6, usage_id="u1")
    await acts.set_member(store, ORG, ADA, "removed", **by())
    await acts.refund(store, usage_id="u1", **by())
    assert await balance(store, ORG) == (20, 0)
    assert await members(store, ORG) == []
    await sound(store)


async def test_usage_that_the_org_paid_for_its_user_is_refunded_to_the_org(store: Store) -> None:
    await acts.set_balance(store, ORG, 20 * CREDIT, **by())
    ledger = Ledger(store)
    assert initiated(await ledger.request("p1", user="ada", org="acme", items=3))
    await ledger.usage("p1", user="ada", org="acme", units=2, usage_id="u1")
    await acts.refund(store, usage_id="u1", subject=ADA, **by())
    found = await reading.account(store, ORG)
    assert (found["balance"], found["held"]) == (20, 1)
    await sound(store)


async def test_a_deduction_is_refunded_by_its_reference_or_its_entry(store: Store) -> None:
    await acts.set_balance(store, ADA, 10 * CREDIT, **by())
    charge = await acts.deduct(store, ADA, amount=4 * CREDIT, key="d", reference="essay-1")
    assert charge.entry_id
    done = await acts.refund(store, usage_id="essay-1", subject=ADA, **by())
    again = await acts.refund(store, entry_id=charge.entry_id, **by())
    assert (done.repeated, again.repeated) == (False, True)
    assert await balance(store, ADA) == (10, 0)


async def test_usage_that_was_priced_late_can_be_refunded_once_it_is_charged(store: Store) -> None:
    await acts.set_balance(store, ADA, 10 * CREDIT, **by())
    await Ledger(store).usage(user="ada", phase="poetry", units=2, usage_id="u1")
    assert await refused(acts.refund(store, usage_id="u1", **by())) == "not_charged"
    book = {"phases": {"poetry": {"per": "item", "credits": 3}}}
    await apply_prices(store, book, None, by="test")
    await charge_unpriced(store)
    assert await balance(store, ADA) == (4, 0)
    await acts.refund(store, usage_id="u1", **by())
    assert await balance(store, ADA) == (10, 0)
    await sound(store)


async def test_the_same_usage_id_of_two_programs_must_say_which(store: Store) -> None:
    await acts.set_balance(store, ADA, 10 * CREDIT, **by())
    await Ledger(store, "one").usage(user="ada", units=1, usage_id="u1")
    await Ledger(store, "two").usage(user="ada", units=2, usage_id="u1")
    assert await refused(acts.refund(store, usage_id="u1", **by())) == "ambiguous_usage"
    await acts.refund(store, usage_id="u1", source="two", **by())
    assert await balance(store, ADA) == (9, 0)


async def test_what_cannot_be_refunded_says_why(store: Store) -> None:
    await acts.set_balance(store, ADA, 10 * CREDIT, **by())
    await Ledger(store).usage(user="ada", units=1, usage_id="u1")
    await Ledger(store).usage(user="ada", units=5, usage_id="free", phase="spellcheck")
    (_, _, granted) = await reading.history(store, ADA, 3)
    hopeless: list[tuple[dict[str, Any], str]] = [
        ({"usage_id": "nope"}, "unknown_charge"),
        ({"entry_id": 1}, "unknown_charge"),
        ({"usage_id": "u1", "source": "elsewhere"}, "unknown_charge"),
        ({"usage_id": "u1", "subject": "user:bob"}, "unknown_charge"),
        ({"entry_id": granted["id"]}, "not_charged"),
        ({"usage_id": "free"}, "nothing_to_refund"),
        ({"usage_id": "u1", "reason": "she asked nicely"}, "invalid_code"),
    ]
    for what, code in hopeless:
        assert await refused(acts.refund(store, **by(), **what)) == code, what
    assert await balance(store, ADA) == (9, 0)
    logged = [a["result"] for a in reversed(await audit(store))]
    assert logged == ["set", *(f"refused: {code}" for _, code in hopeless)]
    await sound(store)


async def test_the_key_of_one_refund_does_not_serve_for_another(store: Store) -> None:
    await acts.set_balance(store, ADA, 10 * CREDIT, **by())
    for name in ("u1", "u2"):
        await Ledger(store).usage(user="ada", units=1, usage_id=name)
    await acts.refund(store, usage_id="u1", **by(key="k"))
    other = acts.refund(store, usage_id="u2", **by(key="k"))
    assert await refused(other) == "idempotency_conflict"


async def test_refunds_and_usage_of_many_at_once_leave_exact_balances(database_url: str) -> None:
    async with several_stores(database_url, 4, size=4) as stores:
        await acts.set_balance(stores[0], ORG, 1000 * CREDIT, **by())
        ledgers = [Ledger(s, f"lane {n}") for n, s in enumerate(stores)]

        async def use_and_refund(n: int) -> None:
            lane = ledgers[n % 4]
            await lane.usage(user=f"u{n}", org="acme", units=3, usage_id=f"x{n}")
            if n % 2:
                await acts.refund(stores[(n + 1) % 4], usage_id=f"x{n}", **by())

        await asyncio.gather(*(use_and_refund(n) for n in range(80)))
        assert await balance(stores[0], ORG) == (1000 - 40 * 3, 0)
        await sound(stores[0])
