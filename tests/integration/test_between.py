"""What may happen between a look and the lock, or between a lock and the commit."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import asyncpg
import pytest
from tests.helpers.acting import by, sound
from tests.helpers.ledger import Ledger
from tests.helpers.stores import several_stores

from faregate.consumers import sweeper
from faregate.ledger import acts, acts_refunds, pricing
from faregate.ledger.acts import Call
from faregate.ledger.erase import erase
from faregate.ledger.write import write

pytestmark = pytest.mark.stack

CREDIT = 1_000_000
ORG, BOB = "org:acme", "user:bob"


async def newest_book(pool: asyncpg.Pool) -> dict[str, Any]:
    found = await pool.fetchval("SELECT book FROM price_versions ORDER BY version DESC LIMIT 1")
    book: dict[str, Any] = json.loads(found)
    return book


async def test_a_refund_finds_who_paid_although_they_are_erased_meanwhile(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with several_stores(database_url, 1) as (one,):
        await acts.grant(one, "user:ada", "purchase", 10 * CREDIT, **by())
        await Ledger(one).usage(user="ada", units=7, usage_id="u1")
        await one.pool.execute("DELETE FROM outbox")  # as if it had been announced
        look = acts_refunds._command

        async def and_erase(*arguments: Any) -> Any:
            command = await look(*arguments)
            connection = await asyncpg.connect(database_url)
            await erase(connection, one.keys, "user:ada", by="operations")
            await connection.close()
            return command

        monkeypatch.setattr(acts_refunds, "_command", and_erase)
        done = await acts.refund(one, usage_id="u1", **by())
        assert (done.result, done.body["account"]) == ("refunded", "erased:1")
        rows = await one.pool.fetch("SELECT id, balance FROM accounts")
        assert [tuple(r) for r in rows] == [(1, 10 * CREDIT)]
        await sound(one)


async def test_a_member_who_is_made_while_a_batch_waits_for_its_lock_is_not_overlooked(
    database_url: str,
) -> None:
    async with several_stores(database_url, 2) as (one, two):
        await acts.grant(one, "user:first", "purchase", 100 * CREDIT, **by())
        await acts.grant(one, ORG, "purchase", 100 * CREDIT, **by())
        await acts.set_policy(one, ORG, "allocated", **by())
        await Ledger(one).usage(user="bob", org="acme", units=1)
        blocker = await asyncpg.connect(database_url)
        transaction = blocker.transaction()
        await transaction.start()
        await blocker.execute(
            "SELECT FROM accounts a JOIN subjects s ON s.account_id = a.id "
            "WHERE s.subject = 'user:first' FOR UPDATE OF a"
        )
        ledger = Ledger(two)
        used = ledger.make.usage(user="bob", org="acme", units=4)
        waiting = asyncio.create_task(ledger.apply(ledger.make.usage(user="first"), used))
        await asyncio.sleep(0.2)
        await acts.allocate(one, ORG, BOB, 10 * CREDIT, **by())
        await transaction.rollback()
        await blocker.close()
        await waiting
        left = await one.pool.fetchval(
            "SELECT a.balance FROM accounts a JOIN members m ON m.account_id = a.id"
        )
        assert left == 6 * CREDIT, "the allocation goes down with the org"
        await sound(one)


async def test_usage_that_commits_after_the_sweeper_has_passed_it_is_charged_all_the_same(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with several_stores(database_url, 3) as (one, two, three):
        for user in ("a", "b"):
            await acts.grant(one, f"user:{user}", "purchase", 100 * CREDIT, **by())
        inside, gate = asyncio.Event(), asyncio.Event()

        async def held_up(connection: Any, keys: Any, loaded: Any, *rest: Any) -> None:
            await write(connection, keys, loaded, *rest)
            if "user:a" in loaded.ids and not gate.is_set():
                inside.set()
                await gate.wait()

        monkeypatch.setattr("faregate.ledger.store.write", held_up)
        sweeps = sweeper.Sweeper(three)
        await sweeps._charge_unpriced()
        first = asyncio.create_task(Ledger(one).usage(user="a", phase="new", units=1))
        await inside.wait()
        await Ledger(two).usage(user="b", phase="new", units=1)
        book = await newest_book(one.pool)
        book["phases"]["new"] = {"credits": 1, "per": "item"}
        await pricing.apply_prices(one, book, None, by="operations")
        await sweeps._charge_unpriced()
        gate.set()
        await first
        await sweeps._charge_unpriced()
        assert await one.pool.fetchval("SELECT count(*) FROM unpriced") == 0
        assert (await Ledger(one).balance("user:a")).balance == 99
        await sound(one)


async def test_a_deduction_that_is_repeated_is_answered_although_its_model_has_no_price_now(
    database_url: str,
) -> None:
    async with several_stores(database_url, 1) as (one,):
        await acts.grant(one, BOB, "purchase", 100 * CREDIT, **by())
        call = Call("gpt-4o-mini", 1000, 100)
        done = await acts.deduct(one, BOB, call=call, key="k")
        book = await newest_book(one.pool)
        del book["models"]["openai/gpt-4o-mini"]
        await pricing.apply_prices(one, book, None, by="operations")
        again = await acts.deduct(one, BOB, call=call, key="k")
        assert (again.result, again.repeated, again.cost) == ("charged", True, done.cost)


async def test_a_member_that_a_restored_backup_does_not_have_is_made_again(
    database_url: str,
) -> None:
    async with several_stores(database_url, 1) as (one,):
        await acts.allocate(one, ORG, BOB, 10 * CREDIT, **by())
        owner = await asyncpg.connect(database_url)
        await owner.execute("ALTER TABLE entries DISABLE TRIGGER append_only")
        member = await owner.fetchval("DELETE FROM members RETURNING account_id")
        for table, column in (("entries", "account_id"), ("accounts", "id")):
            await owner.execute(f"DELETE FROM {table} WHERE {column} = $1", member)
        await owner.execute("DELETE FROM subjects WHERE account_id = $1", member)
        await owner.close()
        done = await acts.allocate(one, ORG, BOB, 5 * CREDIT, **by())
        assert done.result == "allocated"


async def test_a_price_version_that_starts_while_the_increment_is_set_stays_the_later_one(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with several_stores(database_url, 1) as (one,):
        book = await newest_book(one.pool)
        del book["increment"]
        book["phases"]["marker"] = {"credits": 7, "per": "item"}
        insert = pricing._insert

        async def late(*arguments: Any) -> Any:
            await asyncio.sleep(0.2)
            return await insert(*arguments)

        soon = await one.pool.fetchval("SELECT clock_timestamp() + interval '150 ms'")
        await pricing.apply_prices(one, book, soon, by="operations")
        monkeypatch.setattr(pricing, "_insert", late)
        await pricing.set_increment(one, 1.0, actor="operations")
        books, now = await one.books()
        current = books.in_force(now)
        assert current is not None
        assert (current.cost("marker", 1), current.increment) == (7 * CREDIT, CREDIT)


async def test_people_who_allocated_to_each_other_can_be_erased_at_the_same_time(
    database_url: str,
) -> None:
    async with several_stores(database_url, 1) as (one,):
        people = [f"user:p{n}" for n in range(12)]
        for n, person in enumerate(people):
            other = people[(n + 1) % len(people)]
            await acts.grant(one, person, "bonus", CREDIT, **by(), allocated_by=other, notes="x")
        await one.pool.execute("DELETE FROM outbox")

        async def gone(person: str) -> None:
            connection = await asyncpg.connect(database_url)
            try:
                await erase(connection, one.keys, person, by="operations")
            finally:
                await connection.close()

        await asyncio.gather(*(gone(person) for person in people))
        assert await one.pool.fetchval("SELECT count(*) FROM subjects WHERE subject IS NULL") == 12
        await sound(one)
