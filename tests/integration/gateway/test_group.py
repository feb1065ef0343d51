"""The queue before the store: how many transactions it has under way, and who waits for whom."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import asyncpg
import pytest
from tests.helpers.ledger import Ledger
from tests.helpers.locks import account_locked, somebody_waits

from faregate.gateway.group import GroupedStore
from faregate.gateway.metrics import Metrics
from faregate.gateway.settings import GatewaySettings
from faregate.ledger.core import Release, Settle
from faregate.ledger.database import TurnedAway
from faregate.ledger.store import Store, Unavailable

pytestmark = pytest.mark.stack


def apart(queue: GroupedStore) -> list[set[str]]:
    """Give the accounts of each lane that waits for somebody else."""
    return [lane.subjects for lane in queue._lanes.values() if lane.is_apart]


class Ending(GroupedStore):
    """One whose first two transactions wait for `end`, and find the database away then."""

    def __init__(self, store: Store, enough: int) -> None:
        settings = GatewaySettings(linger_s=0, max_batch=1, enough=enough, patience_s=60)
        super().__init__(store, settings, Metrics())
        self.end = asyncio.Event()
        self.begun = 0

    async def take(self, *args: Any, **more: Any) -> Any:
        self.begun += 1
        if self.begun <= 2:
            await self.end.wait()
            raise Unavailable("the server has ended")
        return await super().take(*args, **more)


async def test_who_tries_again_at_once_finds_a_lane_when_both_have_just_ended(
    store: Store,
) -> None:
    await Ledger(store).set_balance("user:ada", 10)
    queue = Ending(store, enough=0)

    async def again() -> Any:
        try:
            return await Ledger(queue).usage(user="ada")
        except Unavailable:
            return await Ledger(queue).usage(user="ada")

    async def once() -> Any:
        with pytest.raises(Unavailable):
            await Ledger(queue).usage(user="ben")

    async with asyncio.TaskGroup() as calls:
        first = calls.create_task(again())
        while queue.begun < 1:
            await asyncio.sleep(0)
        calls.create_task(once())
        while queue.begun < 2:
            await asyncio.sleep(0)
        queue.end.set()
        async with asyncio.timeout(10):
            await asyncio.wait((first,))
    assert (await Ledger(store).balance("user:ada")).balance == 9
    await queue.close()
    assert not queue._lanes
    assert not queue._waiting


class Counting(GroupedStore):
    """One with room for a single call in each transaction; it counts those that have begun.

    The one whose number is `slow` goes on when `end` is set.
    """

    def __init__(self, store: Store, slow: int = 0, **settings_: Any) -> None:
        settings = GatewaySettings(**{"linger_s": 0, "max_batch": 1, "patience_s": 60} | settings_)
        super().__init__(store, settings, Metrics())
        self.slow, self.end = slow, asyncio.Event()
        self.begun = 0
        self.apart: list[list[set[str]]] = []
        """Whom lanes waited for, when each transaction began."""

    async def take(self, *args: Any, **more: Any) -> Any:
        self.begun += 1
        self.apart.append(apart(self))
        if self.begun == self.slow:
            await self.end.wait()
        return await super().take(*args, **more)


async def _rich(store: Store, *names: str) -> None:
    for name in names:
        await Ledger(store).set_balance(f"user:{name}", 10)


async def test_who_waits_for_an_account_holds_up_nobody_else(
    store: Store, pool: asyncpg.Pool
) -> None:
    await _rich(store, "ada", "ben", "cy")
    queue = Counting(store)
    async with asyncio.TaskGroup() as calls, account_locked(pool, "user:ada", "user:ben"):
        waiting = [calls.create_task(Ledger(queue).usage(user=u)) for u in ("ada", "ben")]
        async with asyncio.timeout(3):
            for _ in range(3):
                await Ledger(queue).usage(user="cy")
        assert len(apart(queue)) == len(queue._lanes)
        assert not any(task.done() for task in waiting)
    for name, left in {"ada": 9, "ben": 9, "cy": 7}.items():
        assert (await Ledger(store).balance(f"user:{name}")).balance == left
    await queue.close()
    assert not queue._lanes


async def test_who_shares_a_transaction_does_not_wait_for_the_account_of_another(
    store: Store, pool: asyncpg.Pool
) -> None:
    await _rich(store, "ada", "ben", "cy")
    queue = Counting(store, max_batch=250)
    ledger = Ledger(queue)
    pair = [ledger.make.usage(user=u) for u in ("ada", "ben")]
    async with asyncio.TaskGroup() as calls, account_locked(pool, "user:ada"):
        ada = calls.create_task(ledger.apply(*pair))
        async with asyncio.timeout(3):
            await ledger.usage(user="cy")
        assert queue.apart == [[], [{"user:ada", "user:ben"}]]
        async with asyncio.timeout(3):
            await ledger.usage(user="cy")
        assert not ada.done()
    assert len(ada.result()) == 2
    for name, left in {"ada": 9, "ben": 9, "cy": 8}.items():
        assert (await ledger.balance(f"user:{name}")).balance == left
    await queue.close()
    assert not queue._lanes


async def test_who_shares_a_transaction_waits_where_there_may_be_no_other(
    store: Store, pool: asyncpg.Pool
) -> None:
    await _rich(store, "ada", "cy")
    queue = Counting(store, max_batch=250, most_lanes=1)
    async with asyncio.TaskGroup() as calls, account_locked(pool, "user:ada"):
        both = [calls.create_task(Ledger(queue).usage(user=u)) for u in ("ada", "cy")]
        await somebody_waits(pool)
        assert (queue.begun, len(queue._lanes)) == (1, 1)
        assert not any(task.done() for task in both)
    assert queue.begun == 1
    for name in ("ada", "cy"):
        assert (await Ledger(store).balance(f"user:{name}")).balance == 9


async def test_no_more_transactions_wait_for_accounts_than_may(
    store: Store, pool: asyncpg.Pool
) -> None:
    await _rich(store, "ada", "ben", "cy")
    queue = Counting(store, most_lanes=2)
    async with asyncio.TaskGroup() as calls, account_locked(pool, "user:ada"):
        async with account_locked(pool, "user:ben"):
            for name in ("ada", "ben", "cy"):
                calls.create_task(Ledger(queue).usage(user=name))
            while len(apart(queue)) < 2:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.1)
            assert (queue.begun, len(queue._lanes)) == (2, 2)
        async with asyncio.timeout(3):  # ben's ends, and cy's is next
            while queue._waiting or len(queue._lanes) > 1:
                await asyncio.sleep(0.001)
        assert queue.begun == 3
    assert [(await Ledger(store).balance(f"user:{u}")).balance for u in ("ada", "cy")] == [9, 9]


async def test_a_second_transaction_begins_only_for_enough_calls(store: Store) -> None:
    names = ("ada", "ben", "cy", "dan")
    await _rich(store, *names)
    queue = Ending(store, enough=3)
    async with asyncio.TaskGroup() as calls:

        async def call(name: str) -> None:
            with suppress(Unavailable):
                await Ledger(queue).usage(user=name)

        calls.create_task(call("ada"))
        while queue.begun < 1:
            await asyncio.sleep(0)
        for name in ("ada", "ada", "ben", "cy"):
            calls.create_task(call(name))
        await asyncio.sleep(0.05)
        assert (queue.begun, queue._size, queue._held) == (1, 4, 2)
        calls.create_task(call("dan"))
        async with asyncio.timeout(3):
            while queue.begun < 2:
                await asyncio.sleep(0.001)
        assert queue._size == 4
        queue.end.set()
    await queue.close()
    left = [(await Ledger(store).balance(f"user:{name}")).balance for name in names]
    assert left == [8, 10, 9, 9]


async def test_who_got_their_account_leaves_the_next_call_to_who_took_their_place(
    store: Store, pool: asyncpg.Pool
) -> None:
    await _rich(store, "ada", "cy")
    queue = Counting(store, slow=2)
    async with asyncio.TaskGroup() as calls:
        async with account_locked(pool, "user:ada"):
            ada = calls.create_task(Ledger(queue).usage(user="ada"))
            while not apart(queue):
                await asyncio.sleep(0.001)
            for _ in range(2):
                calls.create_task(Ledger(queue).usage(user="cy"))
            while queue.begun < 2:
                await asyncio.sleep(0.001)
        await ada
        assert (queue.begun, queue._size, len(queue._lanes)) == (2, 1, 1)
        queue.end.set()
    assert (await Ledger(store).balance("user:cy")).balance == 8


async def test_an_account_that_is_locked_takes_one_transaction_however_many_call(
    store: Store, pool: asyncpg.Pool
) -> None:
    await _rich(store, "ada", "cy")
    queue = Counting(store)
    async with asyncio.TaskGroup() as calls, account_locked(pool, "user:ada"):
        calls.create_task(Ledger(queue).usage(user="ada"))
        while not apart(queue):
            await asyncio.sleep(0.001)
        for _ in range(3):
            calls.create_task(Ledger(queue).usage(user="ada"))
        async with asyncio.timeout(3):
            await Ledger(queue).usage(user="cy")
        assert (queue.begun, queue._size, queue._held, len(apart(queue))) == (2, 3, 3, 1)
    await queue.close()
    assert (queue.begun, queue._size, queue._held) == (5, 0, 0)
    assert (await Ledger(store).balance("user:ada")).balance == 6


async def test_an_account_whose_backlog_is_long_leaves_room_for_others(
    store: Store, pool: asyncpg.Pool
) -> None:
    await _rich(store, "ada", "cy")
    queue = Counting(store, max_waiting=5, max_waiting_about_one=3)
    ledger = Ledger(queue)
    async with asyncio.TaskGroup() as calls, account_locked(pool, "user:ada"):
        calls.create_task(ledger.usage(user="ada"))
        while not apart(queue):
            await asyncio.sleep(0.001)
        left = [calls.create_task(ledger.usage(user="ada")) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Unavailable, match="about the same account"):
            await ledger.apply(*(ledger.make.usage(user="ada") for _ in range(2)))
        left += [calls.create_task(ledger.usage(user="ada"))]
        await asyncio.sleep(0)
        with pytest.raises(Unavailable, match="about the same account"):
            await ledger.usage(user="ada")
        async with asyncio.timeout(3):
            await ledger.usage(user="cy")
        assert not any(task.done() for task in left)
        left[0].cancel()  # its caller has gone; its place is free once the queue comes to it
        await ledger.usage(user="cy")
        await ledger.usage(user="cy")
    await queue.close()
    assert (queue._size, queue._about) == (0, {})
    await ledger.usage(user="ada")
    for name, left_over in {"ada": 6, "cy": 7}.items():
        assert (await Ledger(store).balance(f"user:{name}")).balance == left_over


async def test_what_ends_holds_of_an_account_with_a_long_backlog_is_let_in(
    store: Store, pool: asyncpg.Pool
) -> None:
    await _rich(store, "ada")
    queue = Counting(store, max_waiting=5, max_waiting_about_one=1)
    make = Ledger(queue).make
    settle = make.act(lambda named: Settle(named, "user:ada", None, b"s" * 16, 1))
    release = make.act(lambda named: Release(named, "user:ada", None, b"r" * 16))
    async with asyncio.TaskGroup() as calls, account_locked(pool, "user:ada"):
        calls.create_task(Ledger(queue).usage(user="ada"))
        while not apart(queue):
            await asyncio.sleep(0.001)
        calls.create_task(Ledger(queue).usage(user="ada"))
        await asyncio.sleep(0)
        ended = [calls.create_task(Ledger(queue).apply(command)) for command in (settle, release)]
        await asyncio.sleep(0)
        with pytest.raises(TurnedAway):
            await Ledger(queue).apply(settle, release, make.usage(user="ada"))
        assert queue._size == 3
    for answer in ended:  # they were decided: there is no such hold
        assert [getattr(r, "code", r) for r in answer.result()] == ["unknown_hold"]


async def test_a_transaction_that_has_stalled_holds_up_nobody_else(store: Store) -> None:
    await _rich(store, "ada", "cy")
    queue = Counting(store, slow=1, patience_s=0.05)
    async with asyncio.TaskGroup() as calls:
        calls.create_task(Ledger(queue).usage(user="ada"))
        while queue.begun < 1:
            await asyncio.sleep(0.001)
        async with asyncio.timeout(3):
            await Ledger(queue).usage(user="cy")
        queue.end.set()
    assert (await Ledger(store).balance("user:ada")).balance == 9


async def test_a_transaction_that_stalls_once_it_has_its_account_is_set_aside_again(
    store: Store, pool: asyncpg.Pool
) -> None:
    await _rich(store, "ada", "cy")

    class Stalling(Counting):
        async def _lock(self, *args: Any, **more: Any) -> Any:
            found = await super()._lock(*args, **more)
            if self.begun == 1 and found:
                await self.end.wait()
            return found

    queue = Stalling(store, patience_s=0.05)
    async with asyncio.TaskGroup() as calls:
        async with account_locked(pool, "user:ada"):
            calls.create_task(Ledger(queue).usage(user="ada"))
            await asyncio.sleep(0.1)
            assert apart(queue)
        while apart(queue):
            await asyncio.sleep(0.001)
        async with asyncio.timeout(3):
            await Ledger(queue).usage(user="cy")
        queue.end.set()
    assert (await Ledger(store).balance("user:ada")).balance == 9
