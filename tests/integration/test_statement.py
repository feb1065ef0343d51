"""The statement: what there was and what happened make what there is, of one account and of all."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from tests.helpers.commands import Commands
from tests.helpers.history import everything
from tests.helpers.ledger import Ledger
from tests.helpers.servers import Stack

from faregate.ledger import acts
from faregate.ledger.statement import Figures, Statement, statement

pytestmark = pytest.mark.stack

CREDIT = 1_000_000


async def figures(ledger: Ledger, where: str = "true") -> Figures:
    """Add up what accounts say themselves."""
    row = await ledger.store.pool.fetchrow(
        "SELECT sum(balance)::bigint, sum(held)::bigint, sum(debt)::bigint FROM accounts a "
        f"WHERE NOT EXISTS (SELECT FROM members m WHERE m.account_id = a.id) AND {where}"
    )
    return Figures(*row)


def said(found: Statement) -> dict[tuple[str, str | None], tuple[int, ...]]:
    return {
        (line.kind, line.reason): (
            line.entries,
            *(n // CREDIT for n in (line.change.balance, line.change.held, line.change.debt)),
        )
        for line in found.lines
    }


async def test_one_account_line_by_line(ledger: Ledger) -> None:
    await ledger.set_balance("org:acme", 10)
    await ledger.request("p1", user="ada", org="acme", phases=["spellcheck"], items=4)
    await ledger.usage("p1", user="ada", org="acme", units=13)
    number = await ledger.store.names.find("org:acme")
    found = await statement(ledger.store.pool, number)
    lines = said(found)
    assert lines["adjustment", None] == (1, 10, 0, 0)
    (usage,) = [value for (kind, _), value in lines.items() if kind == "usage"]
    assert usage[1] - usage[3] == -13
    assert found.opening == Figures()
    assert found.closing == found.now == await figures(ledger, f"id = {number}")
    assert found.adds_up


async def test_all_accounts_add_up_however_the_time_is_cut(ledger: Ledger) -> None:
    await everything(ledger)
    pool = ledger.store.pool
    whole = await statement(pool)
    assert whole.closing == whole.now == await figures(ledger)
    assert {line.kind for line in whole.lines} >= {
        "purchase", "bonus", "refund", "adjustment", "usage", "debt", "expiry", "hold", "release",
    }  # fmt: skip
    entries = await pool.fetchval(
        "SELECT count(*) FROM entries e "
        "WHERE NOT EXISTS (SELECT FROM members m WHERE m.account_id = e.account_id)"
    )
    assert sum(line.entries for line in whole.lines) == entries
    times = [r["at"] for r in await pool.fetch("SELECT DISTINCT at FROM entries ORDER BY at")]
    for cut in (times[0], times[len(times) // 2], times[-1], times[-1] + timedelta(seconds=1)):
        before, after = await statement(pool, end=cut), await statement(pool, start=cut)
        assert before.closing == after.opening
        assert (before.now, after.now) == (None, whole.now)
        assert after.closing == whole.closing


async def test_allocations_are_no_credits_of_all(ledger: Ledger) -> None:
    await everything(ledger)
    pool = ledger.store.pool
    members = [r["account_id"] for r in await pool.fetch("SELECT account_id FROM members")]
    rows = [await statement(pool, number) for number in members]
    assert any(("adjustment", "allocation") in said(row) for row in rows)
    assert ("adjustment", "allocation") not in said(await statement(pool))


async def test_an_account_that_was_changed_by_hand_does_not_add_up(
    ledger: Ledger, stack: Stack, database_url: str
) -> None:
    await ledger.set_balance("org:acme", 10)
    await ledger.set_balance("user:ada", 5)
    commands = Commands(stack, database_url)
    fine = await commands.json("credits", "statement")
    assert (fine["adds_up"], fine["closing"]["balance"], fine["accounts"]) == (True, 15, 2)
    owner = await asyncpg.connect(database_url, timeout=10)
    await owner.execute("UPDATE accounts SET balance = balance + 1 WHERE balance > 9000000")
    await owner.close()
    for words in ((), ("org:acme",)):
        assert (await commands.json("credits", "statement", *words, code=1))["adds_up"] is False
    assert (await commands.json("credits", "statement", "user:ada"))["adds_up"] is True
    text = await commands.run("credits", "statement", "--from", "2020-01-01", code=1)
    assert "all 2 accounts from 2020-01-01" in text
    assert "adjustment" in text
    assert "at the end" in text


async def test_of_what_there_is_not_nothing_is_stated(
    ledger: Ledger, stack: Stack, database_url: str
) -> None:
    await ledger.set_balance("org:acme", 10)
    commands = Commands(stack, database_url)

    async def refused(*words: str, code: int) -> Any:
        return (await commands.json("credits", "statement", *words, code=code))["error"]

    assert await refused("org:nobody", code=1) == "unknown_account"
    assert await refused("acme", code=2) == "usage"
    for option in ("--from", "--to"):
        words = ("credits", "statement", option, "2990-01-01")
        said = await commands.json(*words, code=2)
        assert f"{option} 2990-01-01T00:00:00+00:00 is still to come" in said["message"]
        assert f"leave {option} out" in said["fix"]
    assert await refused("--from", "2026-02-01", "--to", "2026-01-01", code=2) == "usage"


async def test_what_was_given_is_told_from_what_was_bought(stack: Stack, database_url: str) -> None:
    commands = Commands(stack, database_url)
    await commands.json("credits", "grant", "user:ada", "300")
    await commands.json("credits", "tier", "user:eve", "starter")
    purchases = {
        line["reason"]: line["balance"]
        for line in (await commands.json("credits", "statement"))["changes"]
        if line["kind"] == "purchase"
    }
    assert purchases == {None: 300, "tier_change": 20}


async def test_a_period_that_is_over_is_compared_with_nothing(
    ledger: Ledger, stack: Stack, database_url: str
) -> None:
    await ledger.set_balance("org:acme", 10)
    now = await ledger.store.pool.fetchval("SELECT now()")
    found = await Commands(stack, database_url).json(
        "credits", "statement", "--to", now.isoformat()
    )
    assert (found["adds_up"], found["closing"]["balance"]) == (None, 10)


async def test_what_has_expired_is_gone_though_nobody_has_swept(
    ledger: Ledger, stack: Stack, database_url: str
) -> None:
    soon = timedelta(milliseconds=300)
    pool = ledger.store.pool
    await acts.grant(
        ledger.store, "user:ada", "bonus", 5 * CREDIT, actor="test", key="g", expires_in=soon
    )
    while not await pool.fetchval("SELECT now() > max(expires_at) FROM grants"):
        await asyncio.sleep(0.05)
    found = await Commands(stack, database_url).json("credits", "statement", "user:ada")
    assert found["closing"]["balance"] == 0
    assert [line["kind"] for line in found["changes"]] == ["bonus", "expiry"]
