"""Real signals to real processes, at the worst moments: nothing is lost, doubled or leaked."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from time import monotonic

import pytest
from tests.helpers.kafka import Raw
from tests.helpers.processes import Supervisor, faregate_processes
from tests.helpers.proof import prove
from tests.helpers.servers import Stack
from tests.helpers.world import World, delete_topics, until, world

from faregate.events.topics import apply_topics
from faregate.ledger.database import Unavailable

pytestmark = [pytest.mark.stack, pytest.mark.faults]

PAIRS = 40
ENTRIES = "SELECT count(*) FROM entries"
OUTBOX = "SELECT count(*) FROM outbox"


@pytest.fixture
async def here(stack: Stack, database_url: str) -> AsyncIterator[World]:
    async with world(stack.kafka, database_url) as made:
        for n in range(4):
            await made.ledger.set_balance(f"org:o{n}", 10_000)
        yield made


def _traffic(here: World, count: int = PAIRS) -> list[Raw]:
    """Make requests and usage of four orgs; each costs something."""
    records = []
    for n in range(count):
        org = f"o{n % 4}"
        records += [here.request(org=org, items=3), here.usage(org=org)]
    return records


async def _dies(procs: Supervisor, *names: str) -> None:
    for name in names:
        assert await procs.wait_exit(name, 30) == -signal.SIGKILL


@pytest.mark.parametrize(
    ("consumers_die", "relay_dies"),
    [("before_commit", "before_send"), ("after_commit", "after_ack")],
)
async def test_sigkill_of_consumers_and_relay(
    here: World, consumers_die: str, relay_dies: str
) -> None:
    await here.send(*_traffic(here))
    entries, waiting = await here.pool.fetchval(ENTRIES), await here.pool.fetchval(OUTBOX)
    async with faregate_processes(here.environment()) as procs:
        for name in ("entitlements", "deduction"):
            procs.start(name, {"FAREGATE_FAILPOINT": consumers_die})
        procs.start("relay", {"FAREGATE_FAILPOINT": relay_dies})
        await _dies(procs, "entitlements", "deduction", "relay")
        written = await here.pool.fetchval(ENTRIES) > entries
        assert written is (consumers_die == "after_commit")
        assert await here.pool.fetchval(OUTBOX) >= waiting, "no row goes before its announcement"
        announced = await here.announced()
        assert bool(announced) is (relay_dies == "after_ack")
        for name in ("entitlements", "deduction", "relay"):
            procs.start(name)
        await here.send(*_traffic(here, 4))
        announced = await prove(here, "entitlements", "deduction")
    repeated = len(announced) - len({event.id for _, _, event in announced})
    assert bool(repeated) is (relay_dies == "after_ack"), "repeated, with the same id"


async def test_sigstop_past_the_session_timeout_while_another_takes_over(here: World) -> None:
    async with faregate_processes(here.environment(), "deduction", "relay") as procs:
        await here.send(*(here.usage(org="o1") for _ in range(50)))
        await here.settled("deduction")
        procs.kill("deduction", signal.SIGSTOP)
        await here.send(*(here.usage(org=f"o{n % 4}") for n in range(50)))
        procs.start("deduction#2")
        await here.settled("deduction")
        procs.kill("deduction", signal.SIGCONT)
        await here.send(*(here.usage(org=f"o{n % 4}") for n in range(50)))
        await prove(here, "deduction")
        await procs.stop("deduction#2")
        await here.send(*(here.usage(org=f"o{n % 4}") for n in range(10)))
        await prove(here, "deduction")


@pytest.mark.parametrize("failpoint", ["before_commit", "after_commit"])
async def test_a_stopped_process_delays_others_by_seconds(here: World, failpoint: str) -> None:
    """It holds account locks; the server ends its session, and it does no harm when it wakes."""
    async with faregate_processes(here.environment(), "relay") as procs:
        procs.start("deduction", {"FAREGATE_FAILPOINT": f"{failpoint}:stop"})
        await procs.wait_ready("deduction")
        await here.send(*(here.usage(org="o1") for _ in range(20)))
        await until(lambda: _is_stopped(procs, "deduction"), what="the process to stop")
        begin = monotonic()

        async def granted() -> bool:
            try:
                await here.ledger.grant("org:o1", 1)
            except Unavailable:
                return False
            return True

        await until(granted, 15, "the lock to be freed")
        assert monotonic() - begin < 10
        procs.start("deduction#2")
        await here.settled("deduction")
        procs.kill("deduction", signal.SIGCONT)  # reaches the failpoint again with its next batch
        await procs.stop("deduction")
        await prove(here, "deduction")


async def _is_stopped(procs: Supervisor, name: str) -> bool:
    def state() -> str:
        with open(f"/proc/{procs.pid(name)}/stat") as stat:  # noqa: PTH123
            return stat.read().rpartition(")")[2].split()[0]

    return state() == "T"


async def test_a_stopped_relay_gives_up_its_lock(here: World) -> None:
    async with faregate_processes(here.environment(), "deduction", "relay") as procs:
        await here.settled("deduction")
        procs.kill("relay", signal.SIGSTOP)
        await here.send(*(here.usage(org="o1") for _ in range(20)))
        procs.start("relay#2")
        await here.settled("deduction")
        procs.kill("relay", signal.SIGCONT)
        await here.send(*(here.usage(org="o1") for _ in range(20)))
        await prove(here, "deduction")


async def test_rebalances_under_load_and_orderly_ends(here: World) -> None:
    names = ("entitlements", "deduction", "relay")
    async with faregate_processes(here.environment(), *names) as procs:
        stop = asyncio.Event()

        async def load() -> None:
            while not stop.is_set():
                await here.send(*_traffic(here, 10))

        loading = asyncio.create_task(load())
        for name in ("entitlements", "deduction"):
            procs.start(f"{name}#2")
        await procs.wait_ready()
        for name in ("entitlements", "deduction", "relay"):
            begin = monotonic()
            procs.kill(name, signal.SIGTERM)
            assert await procs.wait_exit(name, 10) == 0
            assert monotonic() - begin < 10
        procs.start("relay")
        procs.start("deduction")
        await procs.wait_ready("relay", "deduction")
        stop.set()
        await loading
        await prove(here, "entitlements", "deduction")


async def test_a_missing_dead_letter_queue_holds_only_its_partition(here: World) -> None:
    await delete_topics(here.kafka, here.prefix, ["usage.recorded.dlq"])
    bad = [Raw("usage.recorded", b"bad %d" % n, b"k", partition=0) for n in range(2)]

    def good(partition: int) -> Raw:
        made = here.usage(org="o1")
        return Raw(made.topic, made.value, made.key, made.headers, partition)

    async with faregate_processes(here.environment(), "deduction", "relay") as procs:
        await here.send(good(0), bad[0], good(0), bad[1], good(0))
        await procs.wait_log("deduction", "dead_letter_not_sent")
        others = [good(1) for _ in range(20)]
        await here.send(*others)
        charged = "SELECT count(*) FROM outcomes WHERE command = 'usage'"

        async def go_on() -> bool:
            return bool(await here.pool.fetchval(charged) == 23)

        await until(go_on, 10, "the other partition to go on")
        assert await here.lag("deduction") == 4, "nothing is dropped"
        await apply_topics(here.kafka, prefix=here.prefix, partitions=2)
        await prove(here, "deduction")
    letters = [r.value for r in await here.dead("usage.recorded")]
    assert [v for n, v in enumerate(letters) if v not in letters[:n]] == [b"bad 0", b"bad 1"]


async def test_unpriced_usage_and_holds_survive_a_kill_of_the_sweeper(here: World) -> None:
    """Every hold is released once, whoever dies on the way."""
    env = here.environment(hold_ttl_s="1", sweep_every_s="0.2")
    asked = [here.request(org=f"o{n % 4}", items=10) for n in range(20)]
    async with faregate_processes(env, "entitlements", "relay") as procs:
        procs.start("sweeper", {"FAREGATE_FAILPOINT": "after_commit"})
        await here.send(*asked)
        await _dies(procs, "sweeper")
        procs.start("sweeper")
        await here.settled("entitlements")
        held = "SELECT count(*) FROM pipelines WHERE state <> 'closed'"

        async def released() -> bool:
            return not await here.pool.fetchval(held)

        await until(released, 20, "all holds to be released")
        await prove(here, "entitlements")
    assert await here.pool.fetchval("SELECT sum(held) FROM accounts") == 0
    assert await here.pool.fetchval("SELECT count(*) FROM entries WHERE kind = 'release'") == 20
