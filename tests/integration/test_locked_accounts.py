"""`Store.take(..., without=...)`: who can do without accounts that are locked does not wait."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from collections.abc import Set as AbstractSet
from random import Random

import asyncpg
import pytest
from tests.helpers.acting import sound
from tests.helpers.ledger import Ledger, initiated
from tests.helpers.locks import account_locked, is_free, somebody_waits
from tests.helpers.stores import several_stores
from tests.helpers.world import gather_all

from faregate.ledger.batch import Submission, needs_of
from faregate.ledger.core import Outcome, Seen
from faregate.ledger.store import Applied, Store

pytestmark = pytest.mark.stack


class Batch(list[Submission]):
    """Submissions, and those of them that were left to somebody who waits."""

    def __init__(self, *submissions: Submission) -> None:
        super().__init__(submissions)
        self.left: list[Submission] = []
        self.asked = 0

    async def take(self, store: Store) -> Applied:
        """Decide those that name no account which somebody else has locked."""
        return await store.take(self, without=self._without)

    def _without(self, busy: AbstractSet[str]) -> Sequence[Submission]:
        self.asked += 1
        free = [s for s in self if needs_of([s.command]).subjects.isdisjoint(busy)]
        self.left = [s for s in self if s not in free]
        return free


async def test_a_batch_goes_on_without_those_that_name_a_locked_account(
    store: Store, pool: asyncpg.Pool
) -> None:
    ledger = Ledger(store)
    for subject in ("user:ada", "user:ben", "org:acme"):
        await ledger.set_balance(subject, 10)
    users = [{"user": "ada"}, {"user": "ben"}, {"user": "ben", "org": "acme"}]
    batch = Batch(*(ledger.make.usage(**one) for one in users))  # type: ignore[arg-type]
    async with account_locked(pool, "org:acme"), asyncio.timeout(3):
        applied = await batch.take(store)
    assert batch.left == batch[2:]
    assert [type(r) for r in applied.results] == [Outcome, Outcome]
    for subject, left in {"user:ada": 9, "user:ben": 9, "org:acme": 10}.items():
        assert (await ledger.balance(subject)).balance == left
    again = await batch.take(store)
    assert ([type(r) for r in again.results], batch.asked) == ([Seen, Seen, Outcome], 1)
    assert (await ledger.balance("org:acme")).balance == 9
    await sound(store)


async def test_who_has_to_wait_holds_no_lock_meanwhile(store: Store, pool: asyncpg.Pool) -> None:
    """Locks are taken in one order: else two that wait for each other would be a dead lock."""
    ledger = Ledger(store)
    await ledger.set_balance("org:acme", 10)
    await ledger.set_balance("user:ada", 10)  # its number is the higher one
    async with account_locked(pool, "org:acme"):
        batch = Batch(ledger.make.usage(user="ada", org="acme"))
        waiting = asyncio.create_task(batch.take(store))
        await somebody_waits(pool)
        assert await is_free(pool, "user:ada")
    assert len((await waiting).results) == 1
    assert (await ledger.balance("org:acme")).balance == 9


async def test_a_payer_that_nobody_names_is_waited_for(store: Store, pool: asyncpg.Pool) -> None:
    ledger = Ledger(store)
    await ledger.set_balance("org:acme", 100)
    await ledger.set_balance("user:ada", 100)
    assert initiated(await ledger.request("p1", user="ada", org="acme", items=2))
    held = (await ledger.balance("org:acme")).held
    async with account_locked(pool, "org:acme"):
        finish = ledger.make.finish("p1", user="ada", usage_events=0)
        batch = Batch(finish, ledger.make.usage(user="ada"))
        waiting = asyncio.create_task(batch.take(store))
        await somebody_waits(pool)
    assert [type(r) for r in (await waiting).results] == [Outcome, Outcome]
    assert held > 0
    assert (await ledger.balance("org:acme")).held == 0
    assert (await ledger.balance("user:ada")).balance == 99
    await sound(store)


@pytest.fixture
async def stores(database_url: str) -> AsyncIterator[list[Store]]:
    async with several_stores(database_url, 6) as opened:
        yield opened


async def test_those_who_wait_and_those_who_do_not_charge_everything_once(
    stores: list[Store],
) -> None:
    ledger, spent = Ledger(stores[0]), Counter[str]()
    users = [f"u{n}" for n in range(9)]
    for user in users:
        await ledger.set_balance(f"user:{user}", 1000)
    left_out = 0

    async def work(store: Store, lane: int) -> None:
        nonlocal left_out
        mine, random = Ledger(store, f"lane {lane}"), Random(lane)
        for _ in range(30):
            named = random.sample(users, 3)
            batch = Batch(*(mine.make.usage(user=user) for user in named))
            spent.update(named)
            if lane % 2:
                await store.apply(batch)
                continue
            applied = await batch.take(store)
            if len(applied.results) < len(batch):
                left_out += 1
                await store.apply(batch.left)

    await gather_all([work(s, n) for n, s in enumerate(stores)])
    assert left_out
    for user, times in spent.items():
        assert (await ledger.balance(f"user:{user}")).balance == 1000 - times
    await sound(stores[0])
