"""The queue before the store, where its two lanes end in the same moment."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.helpers.ledger import Ledger

from faregate.gateway.group import GroupedStore
from faregate.gateway.metrics import Metrics
from faregate.gateway.settings import GatewaySettings
from faregate.ledger.store import Store, Unavailable

pytestmark = pytest.mark.stack


class Ending(GroupedStore):
    """One whose first two transactions wait for `end`, and find the database away then."""

    def __init__(self, store: Store) -> None:
        super().__init__(store, GatewaySettings(linger_s=0, max_batch=1), Metrics())
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
    queue = Ending(store)

    async def again() -> Any:
        try:
            return await Ledger(queue).usage(user="ada")
        except Unavailable:
            return await Ledger(queue).usage(user="ada")

    async def once() -> Any:
        with pytest.raises(Unavailable):
            await Ledger(queue).usage(user="ada")

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
    assert (queue._lanes, queue._waiting) == (set(), type(queue._waiting)())
