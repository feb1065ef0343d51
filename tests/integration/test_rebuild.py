from __future__ import annotations

import asyncpg
import pytest
from tests.helpers.commands import Commands
from tests.helpers.history import everything
from tests.helpers.ledger import Ledger
from tests.helpers.servers import Stack, with_role

from faregate.ledger.core import Rejected
from faregate.ledger.rebuild_live import Comparison, rebuild_and_compare

pytestmark = pytest.mark.stack

LIVE = ("accounts", "pipelines", "grants", "entries", "outcomes", "members", "subjects")
OF = "(SELECT account_id FROM subjects WHERE subject = '{}')"
FAY = (
    "(SELECT m.account_id FROM members m JOIN subjects s ON s.account_id = m.user_id "
    "WHERE s.subject = 'user:fay')"
)


async def digests(owner: asyncpg.Connection) -> dict[str, str]:
    return {
        name: await owner.fetchval(
            f"SELECT md5(string_agg(t::text, '|' ORDER BY t::text)) FROM {name} t"
        )
        for name in LIVE
    }


def said(done: Comparison) -> set[tuple[str, str, str | None, str | None]]:
    return {(d.account, d.what, d.live, d.rebuilt) for d in done.differences}


async def test_an_empty_ledger_is_equal(owner: asyncpg.Connection) -> None:
    done = await rebuild_and_compare(owner)
    assert done.ok
    assert (done.entries, done.accounts) == (0, 0)


async def test_what_the_entries_make_equals_the_live_tables(
    ledger: Ledger, owner: asyncpg.Connection
) -> None:
    await everything(ledger)
    before = await digests(owner)
    moves: list[tuple[int, int]] = []
    done = await rebuild_and_compare(owner, lambda *move: moves.append(move))
    assert done.differences == []
    assert done.ok
    entries = await owner.fetchval("SELECT count(*) FROM entries")
    assert (done.entries, moves[-1]) == (entries, (entries, entries))
    open_holds = "SELECT count(*) FROM pipelines WHERE remaining > 0"
    assert done.holds == await owner.fetchval(open_holds)
    assert await digests(owner) == before, "live tables are only read"


async def test_it_can_be_done_again_and_leaves_tables_to_look_at(
    ledger: Ledger, owner: asyncpg.Connection
) -> None:
    await everything(ledger)
    await rebuild_and_compare(owner)
    await ledger.grant("user:hana", 1)
    assert (await rebuild_and_compare(owner)).ok
    assert await owner.fetchval(
        "SELECT sum(balance) FROM rebuilt.accounts"
    ) == await owner.fetchval("SELECT sum(amount) FROM entries")
    share = await owner.fetchrow("SELECT * FROM rebuilt.allocations WHERE account_id = " + FAY)
    assert (share["allocated"], share["used"]) == (90_000_000, 5_000_000)
    assert (share["held"], share["remaining"]) == (40_000_000, 45_000_000)


@pytest.mark.parametrize(
    ("change", "account", "what", "live", "rebuilt"),
    [
        ("UPDATE accounts SET balance = balance + 1 WHERE id = " + OF.format("org:plain"), "org:plain", "balance", "1300000001", "1300000000"),
        ("UPDATE accounts SET granted = 7 WHERE id = " + OF.format("org:plain"), "org:plain", "granted", "7", "1300000000"),
        ("UPDATE accounts SET debt = 0 WHERE id = " + OF.format("user:bob"), "user:bob", "debt", "0", "8000000"),
        ("UPDATE accounts SET grants = jsonb_set(grants, '{0,1}', '5') WHERE id = " + OF.format("org:plain"), "org:plain", "grant 1: remaining", "5", "1000000000"),
        ("UPDATE accounts SET grants = jsonb_set(grants, '{0,3}', '1') WHERE id = " + OF.format("org:plain"), "org:plain", "grant 1: priority", "1", "100"),
        ("UPDATE pipelines SET remaining = 39 WHERE payer_id = " + OF.format("org:corp") + " AND state = 'live'", "org:corp", "remaining", "39", "40000000"),
        ("UPDATE pipelines SET member_pins = '[]' WHERE payer_id = " + OF.format("org:corp") + " AND state = 'live'", "user:fay in org:corp", "pins", "[]", "[[1, 40000000]]"),
        ("UPDATE accounts SET plan = plan || '{\"calls\": 1}' WHERE id = " + OF.format("user:hana"), "user:hana", "calls in the period", "1", "2"),
        ("UPDATE accounts SET plan = plan - 'call_limit' WHERE id = " + OF.format("user:hana"), "user:hana", "calls allowed", None, "900"),
        ("UPDATE accounts SET balance = balance + 9 WHERE id = " + FAY, "user:fay in org:corp", "balance", "85000009", "85000000"),
        ("DELETE FROM pipelines WHERE payer_id = " + OF.format("user:hana") + " AND state = 'live'", "user:hana", "remaining", None, "3000000"),
    ],
    ids=["balance", "granted", "debt", "a grant", "a priority", "a hold", "what a hold pins", "calls", "a quota", "an allocation", "a hold that is gone"],
)  # fmt: skip
async def test_a_change_of_a_live_table_is_named_with_both_values(
    ledger: Ledger,
    owner: asyncpg.Connection,
    change: str,
    account: str,
    what: str,
    live: str | None,
    rebuilt: str | None,
) -> None:
    await everything(ledger)
    await owner.execute("ALTER TABLE accounts DROP CONSTRAINT accounts_check1")
    await owner.execute(change)
    done = await rebuild_and_compare(owner)
    assert not done.ok
    assert account in {d.account for d in done.differences}
    found = {(d.live, d.rebuilt) for d in done.differences if d.what.endswith(what)}
    assert found == {(live, rebuilt)}


async def test_a_grant_that_was_rewritten_for_readers_is_named(
    ledger: Ledger, owner: asyncpg.Connection
) -> None:
    await ledger.grant("user:zoe", 5)
    await owner.execute("ALTER TABLE grants DISABLE TRIGGER append_only")
    await owner.execute("UPDATE grants SET amount = 9")
    assert said(await rebuild_and_compare(owner)) == {
        ("user:zoe", "grant 1 as made: amount", "9", "5000000")
    }


async def test_entries_that_cannot_be_are_named_and_do_not_end_it(
    ledger: Ledger, owner: asyncpg.Connection
) -> None:
    await ledger.grant("user:zoe", 5)
    await ledger.grant("user:zoe", 6)
    await ledger.grant("user:yan", 7)
    await owner.execute("ALTER TABLE entries DISABLE TRIGGER append_only")
    await owner.execute("UPDATE entries SET sequence = 4 WHERE amount = 6000000")
    done = await rebuild_and_compare(owner)
    assert ("user:zoe", "entries", None, "entry 4 follows 1") in said(done)
    assert {d.account for d in done.differences} == {"user:zoe"}


async def test_a_schema_of_that_name_that_is_somebody_elses_stays(
    owner: asyncpg.Connection,
) -> None:
    await owner.execute("CREATE SCHEMA rebuilt CREATE TABLE theirs (x int)")
    with pytest.raises(Rejected, match="rename it"):
        await rebuild_and_compare(owner)
    assert await owner.fetchval("SELECT count(*) FROM rebuilt.theirs") == 0


async def test_two_at_once_do_not_mix(owner: asyncpg.Connection, database_url: str) -> None:
    other = await asyncpg.connect(database_url, timeout=10)
    try:
        async with other.transaction():
            await other.execute(
                "SELECT pg_advisory_xact_lock(hashtextextended('faregate.rebuild', 0))"
            )
            with pytest.raises(Rejected) as refused:
                await rebuild_and_compare(owner)
    finally:
        await other.close()
    assert refused.value.code == "rebuild_running"


async def test_the_command_says_equal_or_what_differs(
    ledger: Ledger, owner: asyncpg.Connection, stack: Stack, database_url: str
) -> None:
    commands = Commands(stack, database_url)
    await everything(ledger)
    assert "EQUAL" in await commands.run("rebuild")
    assert (await commands.json("rebuild"))["ok"] is True
    await owner.execute("UPDATE accounts SET granted = 7 WHERE id = " + OF.format("org:plain"))
    found = await commands.json("rebuild", code=1)
    assert found["differences"] == [
        {"account": "org:plain", "what": "granted", "live": "7", "rebuilt": "1300000000"}
    ]
    shown = await commands.run("rebuild", code=1)
    assert "org:plain" in shown
    assert "DIFFERENT" in shown


async def test_the_applications_role_is_told_that_the_owner_is_needed(
    stack: Stack, database_url: str
) -> None:
    async with with_role(database_url) as url:
        refused = await Commands(stack, url).json("rebuild", code=1)
    assert refused["error"] == "not_the_owner"
    assert "owner" in refused["fix"]
