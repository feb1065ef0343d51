"""The restore drill: back up, go on, lose the database, restore; the ledger ends where it was."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import asyncpg
import pytest
from tests.helpers.proof import prove_effects, verified
from tests.helpers.servers import Stack, database_name, drop_database
from tests.helpers.world import World, completed, finished, until

from faregate.ledger.write import WentBack
from faregate.runtime.stack.postgres_files import binaries

pytestmark = [pytest.mark.stack, pytest.mark.faults]

GROUPS = ("entitlements", "deduction", "progress")
STATE = """SELECT subject, balance, held, debt, sequence FROM accounts
    JOIN subjects ON account_id = id WHERE sequence > 0 ORDER BY 1"""
FACTS = """SELECT r.usage_id, e.amount, e.debt_delta, s.subject FROM entries e
    JOIN refs r USING (outcome_id) JOIN subjects s USING (account_id)
    WHERE e.kind = 'usage' ORDER BY 1"""


async def _work(here: World, first: int, count: int) -> None:
    """Ask, complete; once it is decided use and finish: some of it by accounts that are new.

    Every other pipeline is settled against its hold, so a replay must make the hold first.
    """
    orgs = {n: f"o{n % 5}" if n % 2 else f"new{n}" for n in range(first, first + count)}
    asked = []
    for n, org in orgs.items():
        asked += [here.usage(org=org), here.request(f"r{n}", org=org, items=3)]
        asked += [completed(f"b-r{n}", "nlp", f"r{n}", org_id=org)]
    await here.send(*asked)
    await here.settled(*GROUPS)
    used = []
    for n, org in orgs.items():
        if n % 2:
            used += [here.usage(org=org, pipeline=f"r{n}")]
            used += [completed(f"b-r{n}", "cj_assessment", f"r{n}", org_id=org)]
            used += [finished(f"r{n}", org_id=org, usage_events=1)] if n % 3 else []
    await here.send(*used)


async def _run(program: str, *arguments: str) -> None:
    process = await asyncio.create_subprocess_exec(f"{binaries(None) / program}", *arguments)
    assert await process.wait() == 0


async def _noticed(here: World, count: int) -> bool:
    found: int = await here.pool.fetchval("SELECT count(*) FROM recoveries")
    return found >= count


async def test_a_restored_backup_is_brought_up_to_date_from_kafka(
    here: World, stack: Stack, tmp_path: Path
) -> None:
    for n in range(5):
        await here.ledger.set_balance(f"org:o{n}", 1000)
    backup = f"{tmp_path / 'backup'}"
    async with here.running(*GROUPS, "relay"):
        await _work(here, 0, 20)
        await here.settled(*GROUPS)
        await _run("pg_dump", "-Fc", "-f", backup, here.database)
        await _work(here, 20, 40)
        await here.settled(*GROUPS)
        await here.store.checkpoint()
        await here.settled(*GROUPS)
    state, facts = await here.pool.fetch(STATE), await here.pool.fetch(FACTS)
    announced = await here.announced()

    await drop_database(stack.database, here.database)
    admin = await asyncpg.connect(stack.database)
    await admin.execute(f'CREATE DATABASE "{database_name(here.database)}"')
    await admin.close()
    await _run("pg_restore", "--exit-on-error", "-d", here.database, backup)
    here.store.forget()

    before = {r["subject"]: r["sequence"] for r in await here.pool.fetch(STATE)}
    assert before != {r["subject"]: r["sequence"] for r in state}, "something was lost"
    async with AsyncExitStack() as running:
        await running.enter_async_context(here.running("deduction", "progress", "relay"))
        await until(lambda: _noticed(here, 2), timeout_s=30)
        # The holds come last, and still are made before anything is settled against them.
        await running.enter_async_context(here.running("entitlements"))
        await here.settled(*GROUPS)
        restored = await here.pool.fetch(STATE)
        assert restored == state
        assert await here.pool.fetch(FACTS) == facts
        await prove_effects(here)
        recoveries = await here.pool.fetch("SELECT epoch, detail FROM recoveries ORDER BY 1")
        assert {r["detail"].partition(":")[0] for r in recoveries} == set(GROUPS)
        await here.store.checkpoint()
        await here.settled(*GROUPS)
        again = await here.announced()
    # Nothing that was said before is said differently now.
    said = {e.id: (e.type, e.data.get("amount"), e.data.get("account")) for _, _, e in announced}
    for _, _, event in again:
        told = (event.type, event.data.get("amount"), event.data.get("account"))
        assert said.setdefault(event.id, told) == told
    report = await verified(here, again)
    assert report.ok, report.findings
    assert report.checkpoints > 0
    async with here.running(*GROUPS):
        pass
    assert await here.pool.fetchval("SELECT count(*) FROM recoveries") == len(recoveries)


async def test_a_ledger_that_went_back_under_a_running_consumer_is_noticed(
    here: World, stack: Stack
) -> None:
    """The offset that is kept is lower than the one this process wrote: nothing is committed."""
    await here.ledger.set_balance("org:o1", 1000)
    async with here.running("deduction", "relay") as started:
        await here.send(*(here.usage(org="o1") for _ in range(10)))
        await here.settled("deduction")
        owner = await asyncpg.connect(here.database)
        await owner.execute("UPDATE offsets SET next_offset = greatest(next_offset - 5, 0)")
        await owner.close()
        offsets = started["deduction"]._offsets
        with pytest.raises(WentBack):
            await offsets.advance(offsets.owned)
        await here.send(*(here.usage(org="o1") for _ in range(10)))
        await here.settled("deduction")
        await prove_effects(here)
    assert await here.pool.fetchval("SELECT count(*) FROM recoveries") == 1


async def test_numbers_of_accounts_are_not_trusted_from_memory(here: World) -> None:
    """As after a restore: the number that is remembered is somebody else's by now."""
    await here.ledger.set_balance("org:mine", 100)
    await here.ledger.set_balance("org:other", 100)
    names = here.store.names
    names._ids["org:mine"], names._ids["org:other"] = names._ids["org:other"], 10**9
    await here.ledger.usage(org="mine", units=30)
    assert (await here.ledger.balance("org:mine")).balance == 70
    assert (await here.ledger.balance("org:other")).balance == 100
