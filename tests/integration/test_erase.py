from __future__ import annotations

import asyncio
import json
from typing import Any

import asyncpg
import pytest
from tests.helpers.commands import Commands
from tests.helpers.history import everything
from tests.helpers.kafka import read_all
from tests.helpers.ledger import Ledger, initiated, new_id
from tests.helpers.servers import Stack, with_role
from tests.helpers.tampering import account_id, announced
from tests.helpers.world import World, world

from faregate.consumers import sweeper
from faregate.consumers.kafka import Cluster
from faregate.events import decode
from faregate.events.topics import apply_topics
from faregate.ledger import acts
from faregate.ledger.batch import Refs, Submission
from faregate.ledger.core import Identity, Outcome, Refresh, Rejected, Rules
from faregate.ledger.erase import Erasure, erase
from faregate.ledger.rebuild_live import rebuild_and_compare
from faregate.ledger.store import Unavailable, open_store
from faregate.ledger.verify import verify
from faregate.runtime.erasing import end_tier, retention

pytestmark = pytest.mark.stack


async def relayed(owner: asyncpg.Connection) -> None:
    """Pretend that the relay has announced everything."""
    await owner.execute("DELETE FROM outbox")


async def erased(ledger: Ledger, owner: asyncpg.Connection, subject: str, **more: Any) -> Erasure:
    await relayed(owner)
    return await erase(owner, ledger.store.keys, subject, by="root", **more)


async def found(owner: asyncpg.Connection, text: str) -> list[str]:
    """Look for a text in every row of every table."""
    tables = await owner.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    return [
        f"{t['tablename']}: {row['line']}"
        for t in tables
        for row in await owner.fetch(f"SELECT t::text AS line FROM {t['tablename']} t")
        if text in row["line"]
    ]


async def test_nothing_in_any_table_names_an_erased_person(
    ledger: Ledger, owner: asyncpg.Connection
) -> None:
    await ledger.grant("user:zelda-7", 50)
    await ledger.request("run-of-zelda-7", user="zelda-7", items=3, batch_id="zelda-7-essays")
    await ledger.usage("run-of-zelda-7", user="zelda-7", usage_id="zelda-7-u1")
    await ledger.finish("run-of-zelda-7", user="zelda-7", usage_events=1)
    await ledger.set_balance("org:corp", 100)
    await acts.allocate(
        ledger.store,
        "org:corp",
        "user:zelda-7",
        5_000_000,
        allocated_by="user:boss",
        notes="zelda-7 asked for it",
        actor="user:boss",
        key=new_id("act"),
    )
    await acts.grant(
        ledger.store,
        "user:other",
        "bonus",
        1_000_000,
        allocated_by="user:zelda-7",
        actor="user:zelda-7",
        key=new_id("act"),
    )
    await owner.execute("INSERT INTO users (user_id, email) VALUES ('zelda-7', 'Z@x.test')")
    await owner.execute("INSERT INTO invitations VALUES ('corp', 'z@x.test', 'member', 'zelda-7')")
    await owner.execute("INSERT INTO invitations VALUES ('corp', 'y@x.test', 'member', 'zelda-7')")
    await owner.execute("INSERT INTO org_names VALUES ('corp', 'Corp', 'zelda-7')")
    await owner.execute(
        "INSERT INTO byok_keys VALUES ('zelda-7', 'openrouter', 1, '', '', '', '', 'stored')"
    )
    await owner.execute(
        "INSERT INTO lago_subscriptions VALUES ('s', 'user:zelda-7', 'e', '{p}', now(), now(), true)"
    )
    await owner.execute("INSERT INTO lago_tiers VALUES ('user:zelda-7', 'free')")
    await owner.execute("INSERT INTO lago_customers VALUES ('user:zelda-7')")
    assert await found(owner, "zelda-7")
    done = await erased(ledger, owner, "user:zelda-7")
    assert await found(owner, "zelda-7") == await found(owner, "z@x.test") == []
    assert done.sign_ins == 8
    assert (done.account, done.grants, done.acts) == (
        f"erased:{await owner.fetchval('SELECT account_id FROM subjects WHERE subject IS NULL')}",
        2,
        1,
    )
    assert done.refs >= 4


async def test_the_ledger_stays_verifiable_and_equal(
    ledger: Ledger, owner: asyncpg.Connection
) -> None:
    await everything(ledger)
    said = await announced(owner)
    for subject in ("user:alice", "user:hana", "user:bob", "user:fay", "user:boss"):
        await erased(ledger, owner, subject, force=True)
    report = await verify(owner, checkpoints=said)
    assert report.findings == []
    assert report.checkpoints == len(said) > 0
    assert (await rebuild_and_compare(owner)).differences == []


async def test_the_act_is_in_the_audit_log_without_their_name(
    ledger: Ledger, owner: asyncpg.Connection
) -> None:
    await ledger.grant("user:42", 5)
    number = await account_id(owner, "user:42")
    await erased(ledger, owner, "user:42")
    row = await owner.fetchrow("SELECT * FROM audit ORDER BY id DESC LIMIT 1")
    assert (row["action"], row["actor"], row["account_id"]) == ("erase", "root", number)
    assert "42" not in row["metadata"]


async def test_erasing_again_finds_nothing_and_writes_nothing(
    ledger: Ledger, owner: asyncpg.Connection
) -> None:
    await ledger.grant("user:42", 5)
    first = await erased(ledger, owner, "user:42")
    logged = await owner.fetchval("SELECT count(*) FROM audit")
    again = await erased(ledger, owner, "user:42")
    assert first.found
    assert not again.found
    assert again.earlier == [first.account]
    assert await owner.fetchval("SELECT count(*) FROM audit") == logged


async def test_a_name_that_comes_again_is_a_new_account_also_where_it_is_remembered(
    ledger: Ledger, owner: asyncpg.Connection
) -> None:
    await ledger.grant("user:42", 5)
    old = await account_id(owner, "user:42")
    await erased(ledger, owner, "user:42")
    await ledger.grant("user:42", 7)  # this process remembers the old account
    new = await account_id(owner, "user:42")
    assert new != old
    assert (await ledger.balance("user:42")).balance == 7
    balances = dict(await owner.fetch("SELECT id, balance FROM accounts"))
    assert balances == {old: 5_000_000, new: 7_000_000}
    assert (await verify(owner)).findings == []


async def test_checkpoints_of_both_lives_of_a_name_are_no_drift(
    ledger: Ledger, owner: asyncpg.Connection
) -> None:
    await ledger.grant("user:42", 5)
    await ledger.grant("user:42", 6)
    said = await announced(owner)
    await erased(ledger, owner, "user:42")
    await ledger.grant("user:42", 7)
    said += [c for c in await announced(owner) if c.account]  # an erased account's has none here
    assert [(c.account, c.sequence) for c in said] == [("user:42", n) for n in (1, 2, 1)]
    assert (await verify(owner, checkpoints=said)).findings == []
    await erased(ledger, owner, "user:42")
    assert (await verify(owner, checkpoints=said)).findings == []
    await owner.execute("ALTER TABLE entries DISABLE TRIGGER append_only")
    await owner.execute("UPDATE entries SET hash = sha256('') WHERE amount = 6000000")
    drift = (await verify(owner, checkpoints=said)).findings
    assert any(f.kind == "checkpoint" for f in drift)


async def test_a_batch_that_waits_for_the_lock_is_written_to_the_new_account(
    ledger: Ledger, owner: asyncpg.Connection
) -> None:
    """The lock's own snapshot still shows the name from before the erasure."""
    await ledger.grant("user:42", 5)
    old = await account_id(owner, "user:42")
    async with owner.transaction():
        await owner.execute("SELECT FROM accounts WHERE id = $1 FOR UPDATE", old)
        waiting = asyncio.create_task(ledger.usage(user="42", usage_id="late", units=2))
        await asyncio.sleep(0.5)
        assert not waiting.done()
        await owner.execute(
            "UPDATE subjects SET subject = NULL, kind = 'user' WHERE account_id = $1", old
        )
        await owner.execute("UPDATE ledger SET erasures = erasures + 1")
    assert isinstance(await waiting, Outcome)
    assert await owner.fetchval("SELECT balance FROM accounts WHERE id = $1", old) == 5_000_000
    assert (await ledger.balance("user:42")).debt == 2


async def test_many_commands_at_once_survive_an_erasure(
    ledger: Ledger, owner: asyncpg.Connection
) -> None:
    await ledger.grant("user:42", 5)
    await relayed(owner)
    late = [asyncio.create_task(ledger.grant("user:42", 1)) for _ in range(40)]
    await erase(owner, ledger.store.keys, "user:42", by="root", force=True)
    late += [asyncio.create_task(ledger.grant("user:42", 1)) for _ in range(40)]
    assert all(isinstance(r, Outcome) for r in await asyncio.gather(*late))
    assert await owner.fetchval("SELECT sum(balance) FROM accounts") == 85_000_000
    assert (await verify(owner)).findings == []


async def test_a_known_event_of_an_erased_person_stays_a_duplicate(
    ledger: Ledger, owner: asyncpg.Connection
) -> None:
    usage = ledger.make.usage(user="42", units=3)
    await ledger.apply(usage)
    await erased(ledger, owner, "user:42", force=True)
    (again,) = await ledger.apply(usage)
    assert not isinstance(again, Outcome)
    assert await owner.fetchval("SELECT count(*) FROM entries WHERE kind = 'usage'") == 1


@pytest.mark.parametrize("reason", ["live_holds", "debt_outstanding", "not_announced"])
async def test_who_is_not_at_rest_is_refused_unless_forced(
    ledger: Ledger, owner: asyncpg.Connection, reason: str
) -> None:
    if reason == "live_holds":
        await ledger.set_balance("org:corp", 100)
        await ledger.request(user="42", org="corp")
    elif reason == "debt_outstanding":
        await ledger.usage(user="42")
    else:
        await ledger.grant("user:42", 5)
        await ledger.usage(user="42")
    if reason != "not_announced":
        await relayed(owner)
    with pytest.raises(Rejected) as refused:
        await erase(owner, ledger.store.keys, "user:42", by="root")
    assert refused.value.code == reason
    assert await account_id(owner, "user:42")
    assert (await erase(owner, ledger.store.keys, "user:42", by="root", force=True)).found


async def test_the_sweeper_works_on_for_erased_accounts(
    ledger: Ledger, owner: asyncpg.Connection
) -> None:
    await acts.set_tier(ledger.store, "user:42", "starter", actor="root", key=new_id("act"))
    assert initiated(await ledger.request("run", user="42", items=3))
    await ledger.usage(user="42", phase="new", units=2)
    number = await account_id(owner, "user:42")
    await erased(ledger, owner, "user:42", force=True)
    await owner.execute("UPDATE pipelines SET expires_at = now() - interval '1 hour'")
    await owner.execute(
        "UPDATE accounts SET due_at = now() - interval '1 hour' WHERE id = $1", number
    )
    prices = {"phases": {"new": {"per": "item", "credits": 1.5}}}
    await owner.execute(
        "INSERT INTO price_versions SELECT 2, now() - interval '1 hour', now(), 'root', $1",
        json.dumps(prices),
    )
    store = await open_store(ledger.store.pool, Rules(provisioning="manual"))  # another process
    for each in (ledger.store, store):
        await sweeper.close_due(each)
        await sweeper.refresh_due(each)
        await sweeper.charge_unpriced(each)
    row = await owner.fetchrow("SELECT * FROM accounts WHERE id = $1", number)
    assert (row["balance"], row["held"]) == (17_000_000, 0)
    assert await owner.fetchval("SELECT count(*) FROM subjects WHERE subject LIKE 'user:%'") == 0
    assert (await verify(owner)).findings == []


async def test_what_was_read_before_an_erasure_is_not_put_on_a_new_account(
    ledger: Ledger, owner: asyncpg.Connection
) -> None:
    """The sweeper took the name from the ledger, so it means the account that had it then."""
    store = ledger.store
    await ledger.grant("user:42", 5)
    await erased(ledger, owner, "user:42")
    key = b"0123456789abcdef"
    stale = Submission(Refresh(Identity(key, key), "user:42"), Refs("faregate"))
    with pytest.raises(Unavailable, match="erased"):
        await store.apply([stale], erasures=0)
    assert await found(owner, "user:42") == []
    assert await store.apply([stale], erasures=1) == [None]


async def test_a_tier_that_renews_ends_first(ledger: Ledger, owner: asyncpg.Connection) -> None:
    await acts.set_tier(ledger.store, "user:42", "starter", actor="root", key=new_id("act"))
    await ledger.grant("user:42", 3)
    assert await end_tier(ledger.store, "user:42", "root")
    assert (await ledger.balance("user:42")).balance == 3, "the tier's own grant has expired"
    assert not await end_tier(ledger.store, "user:42", "root")
    assert not await end_tier(ledger.store, "user:nobody", "root")
    plan = await owner.fetchval("SELECT plan ->> 'tier' FROM accounts")
    assert plan in {None, "free"}


async def test_the_relay_announces_under_the_number_and_no_ones_id(
    stack: Stack, database_url: str
) -> None:
    async with world(stack.kafka, database_url) as here:
        await _announced_after_erasure(here)


async def _announced_after_erasure(here: World) -> None:
    ledger = here.ledger
    await ledger.grant("user:42", 50)
    await ledger.request("run", user="42", items=3)
    owner = await asyncpg.connect(here.database, timeout=10)
    try:
        async with here.running("relay"):
            await here.settled()
            number = await account_id(owner, "user:42")
            await erase(owner, ledger.store.keys, "user:42", by="root", force=True)
            await owner.execute("UPDATE pipelines SET expires_at = now() - interval '1 hour'")
            await sweeper.close_due(ledger.store)
            await here.settled()
    finally:
        await owner.close()
    records = await read_all(here.kafka, [here.prefix + "credits.ledger"])
    events = [decode(r.value, r.headers) for r in records]
    (released,) = [e.data for e in events if e.type == "CreditsReleasedV1"]
    assert (released["account"], released["user_id"]) == (f"erased:{number}", f"erased:{number}")
    assert "pipeline_id" not in released


async def test_the_command_erases_and_says_what_remains(
    ledger: Ledger, owner: asyncpg.Connection, stack: Stack, database_url: str
) -> None:
    commands = Commands(stack, database_url)
    await ledger.grant("user:42", 5)
    await relayed(owner)
    await commands.run("erase", "user:42", code=2)  # nobody at a terminal to ask
    done = await commands.json("erase", "user:42", "--yes")
    assert done["erased"] is True
    topics = {t["topic"]: t["days"] for t in done["remains"]["kafka"]}
    assert (topics["none.usage.recorded"], topics["none.usage.recorded.dlq"]) == (42, 90)
    assert topics["none.credits.checkpoints"] is None
    assert "backup" in done["remains"]["backups"].lower()
    assert (await commands.json("erase", "user:42", "--yes"))["erased"] is False
    shown = await commands.run("erase", "user:42", "--yes")
    assert "Nothing is left of user:42" in shown
    assert "OK" in await commands.run("verify", "--without-checkpoints")


async def test_the_command_refuses_who_is_not_at_rest_and_an_org_that_is_not_meant(
    ledger: Ledger, owner: asyncpg.Connection, stack: Stack, database_url: str
) -> None:
    commands = Commands(stack, database_url)
    await ledger.usage(user="42")
    await ledger.grant("org:corp", 5)
    await relayed(owner)
    refused = await commands.json("erase", "user:42", "--yes", code=1)
    assert refused["error"] == "debt_outstanding"
    assert "--force" in refused["fix"]
    await commands.run("erase", "org:corp", "--yes", code=2)
    assert (await commands.json("erase", "org:corp", "--org", "--yes"))["erased"] is True
    async with with_role(database_url) as url:
        refused = await Commands(stack, url).json("erase", "user:42", "--yes", "--force", code=1)
    assert refused["error"] == "not_the_owner"


async def test_retention_is_read_from_the_cluster_where_there_is_one(stack: Stack) -> None:
    prefix = f"{new_id('kept')}."
    await apply_topics(stack.kafka, prefix=prefix, partitions=1)
    found = {
        t["topic"]: (t["days"], t["from"]) for t in await retention(Cluster(stack.kafka), prefix)
    }
    assert found[f"{prefix}credits.ledger"] == (365, "cluster")
    assert found[f"{prefix}credits.checkpoints"] == (None, "cluster")
    away = await retention(Cluster("127.0.0.1:1"), prefix)
    assert {t["from"] for t in away} == {"definition"}
