"""Many at once: through Kafka with two consumers of each kind, and straight into the store."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from tests.helpers.acting import sound
from tests.helpers.ledger import Ledger, denied, initiated
from tests.helpers.proof import prove
from tests.helpers.servers import Stack
from tests.helpers.stores import several_stores
from tests.helpers.world import World, gather_all, until, world

from faregate.consumers.sweeper import close_due
from faregate.ledger.core import Outcome, Rejected, Rules, Seen
from faregate.ledger.store import Result, Store

pytestmark = pytest.mark.stack

LANES = 8


@pytest.fixture
async def here(stack: Stack, database_url: str) -> AsyncIterator[World]:
    async with world(stack.kafka, database_url, partitions=4) as made:
        yield made


@pytest.fixture
async def stores(database_url: str) -> AsyncIterator[list[Store]]:
    """Several stores with connections of their own, as several processes have."""
    rules = Rules(
        provisioning="manual", hold_ttl=timedelta(seconds=0.3), grace=timedelta(seconds=0.3)
    )
    async with several_stores(database_url, LANES, rules=rules) as opened:
        yield opened


async def test_of_a_thousand_requests_for_one_credit_one_wins(here: World) -> None:
    await here.ledger.set_balance("org:acme", 1)
    requests = [here.request(user=f"u{n}", org="acme", items=2) for n in range(1000)]
    # Without a good key they spread over all partitions, so over both consumers.
    spread = [type(r)(r.topic, r.value, None, r.headers, n % 4) for n, r in enumerate(requests)]
    await here.send(*spread)
    async with here.running("entitlements", "entitlements#2", "relay"):
        announced = await prove(here, "entitlements")
    decisions = {e.data["pipeline_id"]: e.type for _, _, e in announced if "pipeline_id" in e.data
                 and e.type.startswith("Pipeline")}  # fmt: skip
    assert Counter(decisions.values()) == {"PipelineInitiatedV1": 1, "PipelineDeniedV1": 999}
    balance = await here.ledger.balance("org:acme")
    assert (balance.balance, balance.available) == (1, 0)


async def test_ten_times_a_hundred_on_a_thousand_leave_nothing(here: World) -> None:
    await here.ledger.set_balance("org:acme", 1000)
    usage = [here.usage("alice", org="acme", units=100) for _ in range(10)]
    twice = [u for u in usage for _ in range(2)]
    spread = [type(u)(u.topic, u.value, None, u.headers, n % 4) for n, u in enumerate(twice)]
    await here.send(*spread)
    async with here.running("deduction", "deduction#2", "relay"):
        await prove(here, "deduction")
    balance = await here.ledger.balance("org:acme")
    assert (balance.balance, balance.debt) == (0, 0)


async def test_the_same_events_reach_two_consumers_at_once(here: World) -> None:
    """The same record in two partitions: each consumer reads one of them."""
    await here.ledger.set_balance("user:alice", 1000)
    usage = [here.usage("alice") for _ in range(300)]
    asked = [here.request(user="alice", items=2) for _ in range(100)]
    copies = [type(r)(r.topic, r.value, r.key, r.headers, n)
              for n in range(4) for r in (*usage, *asked)]  # fmt: skip
    await here.send(*copies)
    names = ("deduction", "deduction#2", "entitlements", "entitlements#2", "relay")
    async with here.running(*names):
        await prove(here, "deduction", "entitlements")
    balance = await here.ledger.balance("user:alice")
    assert (balance.balance, balance.held) == (700, 100)


async def test_a_thousand_direct_requests_for_one_credit(stores: list[Store]) -> None:
    await Ledger(stores[0]).set_balance("org:acme", 1)

    async def ask(store: Store, lane: int) -> list[Result]:
        ledger = Ledger(store, f"lane {lane}")
        made = [ledger.make.request(org="acme", user=f"u{n}", items=2) for n in range(125)]
        batches = [made[at : at + 5] for at in range(0, len(made), 5)]
        return [r for batch in batches for r in await ledger.apply(*batch)]

    results = [r for lane in await gather_all([ask(s, n) for n, s in enumerate(stores)])
               for r in lane]  # fmt: skip
    assert sum(map(initiated, results)) == 1
    assert sum(denied(r) == "insufficient_credits" for r in results) == 999
    await sound(stores[0])


async def test_the_first_ever_usage_of_an_account_from_everywhere(stores: list[Store]) -> None:
    for round_ in range(10):
        user = f"new{round_}"
        results = await gather_all([Ledger(s, f"l{n}").usage(user=user)
                                    for n, s in enumerate(stores)])  # fmt: skip
        assert all(isinstance(r, Outcome) for r in results)
        account = await Ledger(stores[0]).balance(f"user:{user}")
        assert (account.balance, account.debt, account.sequence) == (0, LANES, LANES)
    await sound(stores[0])


async def test_the_same_event_from_everywhere_has_one_effect(stores: list[Store]) -> None:
    await Ledger(stores[0]).set_balance("user:alice", 100)
    for round_ in range(10):
        same = Ledger(stores[0]).make.usage(event_id=f"e{round_}", usage_id=f"u{round_}")
        results = [r for (r,) in await gather_all([s.apply([same]) for s in stores])]
        assert sum(isinstance(r, Outcome) for r in results) == 1
        assert sum(isinstance(r, Seen) for r in results) == LANES - 1
    assert (await Ledger(stores[0]).balance("user:alice")).balance == 90


async def test_one_identity_with_different_payers_at_once(stores: list[Store]) -> None:
    """No account lock is shared: the unique keys alone must decide."""
    for round_ in range(10):
        made = [
            Ledger(s).make.usage(event_id=f"x{round_}", usage_id=f"x{round_}", user=f"x{n}")
            for n, s in enumerate(stores)
        ]
        results = [r for (r,) in await gather_all(
            [s.apply([m]) for s, m in zip(stores, made, strict=True)])]  # fmt: skip
        assert sum(isinstance(r, Outcome) for r in results) == 1
        assert sum(isinstance(r, Rejected) for r in results) == LANES - 1
    await sound(stores[0])


async def test_two_users_ask_for_the_same_new_pipeline_at_once(stores: list[Store]) -> None:
    for n in range(LANES):
        await Ledger(stores[0]).set_balance(f"user:u{n}", 1000)
    for round_ in range(10):
        results = await gather_all([
            Ledger(s, f"l{n}").request(f"same{round_}", user=f"u{n}", items=2)
            for n, s in enumerate(stores)
        ])  # fmt: skip
        assert sum(map(initiated, results)) == 1
        conflicts = [r for r in results if isinstance(r, Rejected)]
        assert [r.code for r in conflicts] == ["pipeline_conflict"] * (LANES - 1)
    held = await stores[0].pool.fetchval("SELECT sum(held) FROM accounts")
    assert held == 10 * 1_000_000
    await sound(stores[0])


async def test_usage_finish_and_sweep_of_one_hold_at_once(stores: list[Store]) -> None:
    ledger = Ledger(stores[0])
    await ledger.set_balance("user:alice", 1000)
    for round_ in range(12):
        pipeline = f"swept{round_}"
        assert initiated(await ledger.request(pipeline, items=10))
        if round_ % 2:
            await until(lambda: _all_due(stores[0]), what="the hold to be due")
        await gather_all([
            *(Ledger(s, f"{n}").usage(pipeline) for n, s in enumerate(stores[:4])),
            Ledger(stores[4]).finish(pipeline, usage_events=4),
            Ledger(stores[5]).completed(pipeline, "cj_assessment", batch_id=pipeline),
            close_due(stores[6]),
            close_due(stores[7]),
        ])  # fmt: skip
    await until(lambda: _all_due(stores[0]), what="the holds to be due")
    await close_due(stores[0])
    balance = await ledger.balance("user:alice")
    assert (balance.balance, balance.held, balance.debt) == (1000 - 12 * 4, 0, 0)
    await sound(stores[0])


async def _all_due(store: Store) -> bool:
    open_ = (
        "SELECT count(*) FROM pipelines WHERE state <> 'closed' AND expires_at > clock_timestamp()"
    )
    return not await store.pool.fetchval(open_)


async def test_pairs_of_accounts_in_opposite_order_do_not_block(stores: list[Store]) -> None:
    """Orgs are charged for users in both orders, in batches and with holds that pull in payers."""
    ledger = Ledger(stores[0])
    for n in range(4):
        await ledger.set_balance(f"org:o{n}", 1000)
        assert initiated(await ledger.request(f"p{n}", user=f"o{n}", org=f"o{n}", items=3))

    async def work(store: Store, lane: int) -> None:
        mine = Ledger(store, f"lane {lane}")
        order = range(4) if lane % 2 else range(3, -1, -1)
        for _ in range(20):
            await mine.apply(
                *(mine.make.usage(user=f"new{lane}-{n}", org=f"o{n}") for n in order),
                *(mine.make.usage(f"p{n}", user=f"o{n}", org=f"o{n}") for n in order),
            )

    async with asyncio.timeout(30):
        await gather_all([work(s, n) for n, s in enumerate(stores)])
    total = await stores[0].pool.fetchval("SELECT sum(balance) FROM accounts")
    assert total == (4 * 1000 - LANES * 20 * 8) * 1_000_000
    await sound(stores[0])
