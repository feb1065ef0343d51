"""Brokers and databases that go away and come back, on a stack of this module's own."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.helpers.kafka import Raw
from tests.helpers.ledger import initiated
from tests.helpers.processes import faregate_processes
from tests.helpers.proof import prove, verified
from tests.helpers.servers import fresh_database
from tests.helpers.world import World, until, world

from faregate.runtime import stack as stacks
from faregate.runtime.stack import StackInfo
from faregate.runtime.stack.state import load

pytestmark = [pytest.mark.stack, pytest.mark.faults, pytest.mark.xdist_group("private_stack")]

NAMES = ("entitlements", "deduction", "relay")
GROUPS = ("entitlements", "deduction")


@pytest.fixture(scope="module")
def private() -> Iterator[StackInfo]:
    with stacks.running() as info:
        yield info


@pytest.fixture
async def here(private: StackInfo) -> AsyncIterator[World]:
    async with world(private.kafka, await fresh_database(private.database)) as made:
        for n in range(3):
            await made.ledger.set_balance(f"org:o{n}", 100_000)
        yield made


def _some(here: World, count: int = 30) -> list[Raw]:
    made = []
    for n in range(count):
        org = f"o{n % 3}"
        made += [here.request(org=org, items=3), here.usage(org=org)]
    return made


async def test_the_broker_restarts_under_load(here: World, private: StackInfo) -> None:
    async with faregate_processes(here.environment(), *NAMES) as procs:
        await here.send(*_some(here, 200))
        await asyncio.to_thread(stacks.restart_kafka, private)
        await here.send(*_some(here))
        await prove(here, *GROUPS)
        assert set(procs.pids()) == set(NAMES), "nobody had to be restarted"


async def test_the_database_restarts_under_load(here: World, private: StackInfo) -> None:
    async with faregate_processes(here.environment(), *NAMES) as procs:
        await here.send(*_some(here, 100))
        await asyncio.to_thread(stacks.restart_postgres, private, "fast")
        await here.send(*_some(here, 100))
        await asyncio.to_thread(stacks.restart_postgres, private, "immediate")
        await here.send(*_some(here))
        await prove(here, *GROUPS)
        assert set(procs.pids()) == set(NAMES), "nobody had to be restarted"


async def test_decisions_wait_for_a_broker_that_is_down(here: World, private: StackInfo) -> None:
    async with faregate_processes(here.environment(), "relay") as procs:
        await here.settled()
        await asyncio.to_thread(stacks.stop_kafka, private)
        for _ in range(5):
            here.requests.add(pipeline := f"p{len(here.requests)}")
            assert initiated(await here.ledger.request(pipeline, org="o1"))
        await procs.wait_log("relay", "relay_retries")
        assert await here.pool.fetchval("SELECT count(*) FROM outbox") == 5
        await asyncio.to_thread(stacks.start_kafka, private)
        announced = await prove(here)
    assert sum(e.type == "PipelineInitiatedV1" for _, _, e in announced) >= 5


async def test_without_a_database_records_wait_and_nothing_is_published(
    here: World, private: StackInfo
) -> None:
    async with faregate_processes(here.environment(), *NAMES) as procs:
        await here.settled(*GROUPS)
        before = len(await here.announced())
        await asyncio.to_thread(stacks.stop_postgres, private)
        await here.send(*_some(here))
        for name in GROUPS:
            await procs.wait_log(name, "database_away")
        assert len(await here.announced()) == before
        await asyncio.to_thread(stacks.start_postgres, private)
        await prove(here, *GROUPS)
        assert set(procs.pids()) == set(NAMES)


async def test_processes_that_live_through_a_restore_read_again_what_was_lost(
    here: World, private: StackInfo, tmp_path: Path
) -> None:
    """The server itself is set back to an older state; nobody tells the processes.

    Accounts made since have numbers that somebody else gets now: no name may be trusted.
    """
    async with faregate_processes(here.environment(), *NAMES) as procs:
        await here.send(*_some(here))
        await here.settled(*GROUPS)
        await _cold_copy(private, tmp_path / "backup")
        lost = [here.usage(org=f"later{n}") for n in range(6)]
        await here.send(*lost, *_some(here))
        await here.settled(*GROUPS)
        names = await here.announced("credits.ledger")
        before = await _balances(here)
        await _cold_restore(private, tmp_path / "backup")
        here.store.forget()
        for n in (5, 4, 3):  # these take the numbers that the lost accounts had
            await here.ledger.grant(f"org:later{n}", 1)
        await here.send(*_some(here, 3))
        await until(lambda: _recovered(here), 30, "a row in recoveries")
        await here.settled(*GROUPS)
        assert set(procs.pids()) == set(NAMES)
    report = await verified(here)
    assert report.ok, report.findings
    after = await _balances(here)
    for n in range(6):
        balance, debt = before[f"org:later{n}"]
        paid = 1 if n in (3, 4, 5) else 0
        assert after[f"org:later{n}"] == (balance, debt - paid * 1_000_000)
    charged = await here.pool.fetch(
        "SELECT usage_id, count(*) AS n FROM entries JOIN refs USING (outcome_id) "
        "WHERE kind = 'usage' GROUP BY 1"
    )
    assert {r["usage_id"]: r["n"] for r in charged} == dict.fromkeys(here.usages, 1)
    owner = {e.data["usage_id"]: k for _, k, e in names if "usage_id" in e.data}
    for _, key, event in await here.announced("credits.ledger"):
        if "usage_id" in event.data:
            assert key == owner.get(event.data["usage_id"], key), "announced for its own account"


async def _recovered(here: World) -> bool:
    return bool(await here.pool.fetchval("SELECT count(*) >= 2 FROM recoveries"))


async def _balances(here: World) -> dict[str, tuple[int, int]]:
    rows = await here.pool.fetch(
        "SELECT subject, balance, debt FROM accounts JOIN subjects ON account_id = id"
    )
    return {r["subject"]: (r["balance"], r["debt"]) for r in rows}


def _data(info: StackInfo) -> Path:
    state = load(info.home)
    assert state
    assert state.postgres.data
    return Path(state.postgres.data)


async def _cold_copy(info: StackInfo, target: Path) -> None:
    await asyncio.to_thread(stacks.stop_postgres, info)
    subprocess.run(["cp", "-a", f"{_data(info)}", f"{target}"], check=True)
    await asyncio.to_thread(stacks.start_postgres, info)


async def _cold_restore(info: StackInfo, backup: Path) -> None:
    await asyncio.to_thread(stacks.stop_postgres, info, "immediate")
    data = _data(info)
    for item in data.iterdir():
        shutil.rmtree(item) if item.is_dir() else item.unlink()
    subprocess.run(["cp", "-a", f"{backup}/.", f"{data}"], check=True)
    await asyncio.to_thread(stacks.start_postgres, info)
