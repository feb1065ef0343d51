"""How far Faregate has come with what was published: the marker that `expect_no_event` waits for.

A record is processed when every consumer of its topic has kept an offset beyond it (which it does in
the transaction of the decision), the relay has announced everything decided until then, and the
test has heard that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial

from aiokafka import TopicPartition

from faregate.consumers.offsets import Offsets
from faregate.events import INPUT_TOPICS
from faregate.ledger.store import Store
from faregate.runtime.processes import CONSUMERS
from faregate.testing.hearing import Ear
from faregate.testing.patience import patient

_POLL_S = 0.03
_DECIDED = "SELECT coalesce(max(tx), 0) FROM outbox"
_UNANNOUNCED = "SELECT count(*) FROM outbox WHERE tx <= $1"


class NotProcessed(AssertionError):
    """Faregate has not come to the end of what was published, in the time that it was given."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Looks at the kept offsets, the outbox, and what was heard."""

    store: Store
    ear: Ear

    async def ends(self) -> dict[TopicPartition, int]:
        """Give the ends of all topics that Faregate reads: everything sent until now."""
        return await self.ear.ends(*INPUT_TOPICS)

    async def lag(self, ends: Mapping[TopicPartition, int] | None = None) -> dict[str, int]:
        """Count for each consumer the records before `ends` (of now) that it has to process yet."""
        if ends is None:
            ends = await self.ends()
        return {name: await self._left(name, ends) for name in CONSUMERS}

    async def _left(self, consumer: str, ends: Mapping[TopicPartition, int]) -> int:
        kept = await Offsets(self.store, consumer, self.ear.topics).kept()
        names = {self.ear.prefix + topic for topic in CONSUMERS[consumer]}
        ids = self.ear.topics.ids
        return sum(
            max(0, end - kept.get((ids[tp.topic], tp.partition), 0))
            for tp, end in ends.items()
            if tp.topic in names
        )

    async def unannounced(self) -> int:
        """Count the transactions that the relay has not announced yet."""
        return int(await self.store.pool.fetchval("SELECT count(*) FROM outbox"))

    async def _read(self, ends: Mapping[TopicPartition, int]) -> bool:
        return not any((await self.lag(ends)).values())

    async def _announced(self, last: int) -> bool:
        return not await self.store.pool.fetchval(_UNANNOUNCED, last)

    async def reached(self, ends: Mapping[TopicPartition, int], within_s: float) -> None:
        """Wait until everything before `ends` is processed. Raises NotProcessed."""
        within_s = patient(within_s)
        try:
            async with asyncio.timeout(within_s):
                await _until(partial(self._read, ends))
                last = await self.store.pool.fetchval(_DECIDED)
                await _until(partial(self._announced, last))
                await self.ear.caught_up(await self.ear.ends())
        except TimeoutError:
            behind = [f"{name} {count}" for name, count in (await self.lag(ends)).items() if count]
            waits = f"to process: {', '.join(behind)}" if behind else "everything is processed"
            raise NotProcessed(
                f"not everything was processed within {within_s:g} s; records left {waits}; "
                f"transactions not announced: {await self.unannounced()}"
            ) from None


async def _until(condition: Callable[[], Awaitable[bool]]) -> None:
    while True:
        if await condition():
            return
        await asyncio.sleep(_POLL_S)
