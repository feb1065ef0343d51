"""What `faregate top` shows: balances from the ledger, rates from the signals, lag from Kafka.

It reads, and is a member of no consumer group. What the streams would have to say while they are
not running is unknown, and is said to be.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Self

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from faregate.consumers.groups import at_work, committed
from faregate.consumers.kafka import Cluster, make_admin, make_reader, start
from faregate.consumers.lag import lag_of
from faregate.consumers.topic_ids import describe, describe_all
from faregate.events import Event, InvalidRecord, decode
from faregate.ledger import reading
from faregate.ledger.queries import SQL
from faregate.ledger.store import Store
from faregate.runtime.processes import CONSUMERS
from faregate.streams import NAMES, SOURCES

_TOPICS = ("signals.burn", "signals.denials", "signals.reconcile")
_ALERTS = ("RunwayLowV1", "DenialSpikeV1", "ReconcileAlertV1")
_BACK = timedelta(hours=1)
"""How far back signals are read: what is older than the hour's window says nothing any more."""
_MINUTE, _HOUR = timedelta(minutes=1), timedelta(hours=1)
_KEPT_ALERTS = 8
_POLL_MS = 50
_CATCH_UP_S = 10.0

Value = dict[str, Any]


class Top:
    """Looks at everything once per call of `look`; an async context manager."""

    def __init__(self, store: Store, cluster: Cluster, most: int) -> None:
        self._store = store
        self._cluster = cluster
        self._most = most
        self._reader = make_reader(cluster, "top")
        self._admin = make_admin(cluster, timeout_s=40)
        self._rates: dict[str, Value] = {}
        self._denials: dict[str, Value] = {}
        self._alerts: deque[Value] = deque(maxlen=_KEPT_ALERTS)

    async def __aenter__(self) -> Self:
        """Connect, and read the signals of the last hour."""
        try:
            await self._begin()
        except BaseException:
            await self._end()
            raise
        return self

    async def _begin(self) -> None:
        await start(self._admin.start, self._cluster)
        await self._reader.start()
        names = [self._cluster.topic(name) for name in _TOPICS]
        described = await describe(self._cluster, names)
        partitions = [
            TopicPartition(name, number)
            for name, count in described.partitions.items()
            for number in range(count)
        ]
        if partitions:
            self._reader.assign(partitions)
            await self._rewind(partitions)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Disconnect."""
        await self._end()

    async def _end(self) -> None:
        for close in (self._reader.stop, self._admin.close):
            with suppress(KafkaError):
                await close()

    async def _rewind(self, partitions: list[TopicPartition]) -> None:
        since = int((datetime.now(UTC) - _BACK).timestamp() * 1000)
        # The ends first: a signal that comes between the two questions is then read in any case.
        ends = await self._reader.end_offsets(partitions)
        found = await self._reader.offsets_for_times(dict.fromkeys(partitions, since))
        for tp in partitions:
            self._reader.seek(tp, found[tp].offset if found[tp] else ends[tp])
        async with asyncio.timeout(_CATCH_UP_S):
            while any([await self._reader.position(tp) < ends[tp] for tp in partitions]):
                await self._read()

    async def _read(self) -> None:
        if not self._reader.assignment():
            return
        for records in (await self._reader.getmany(timeout_ms=_POLL_MS)).values():
            for record in records:
                try:
                    self._take(decode(record.value, record.headers))
                except InvalidRecord:
                    continue

    def _take(self, event: Event) -> None:
        data, account = event.data, str(event.data.get("account"))
        if event.type == "BurnRateV1":
            self._rates[account] = data
        elif event.type == "DenialRateV1":
            newest = self._denials.get(account)
            if newest is None or newest["window_start"] <= data["window_start"]:
                self._denials[account] = data
        elif event.type in _ALERTS:
            at = event.time.isoformat() if event.time else None
            self._alerts.append({"type": event.type, "at": at, "data": data})

    async def look(self) -> Value:
        """Give everything as it is now. `burn` is None where it is unknown."""
        await self._read()
        now = datetime.now(UTC)
        accounts, consumers, streams = await asyncio.gather(
            reading.busiest(self._store, self._most), self._consumers(), self._streams()
        )
        for account in accounts:
            name = account["account"]
            known = self._rates.get(name) if streams["burn"]["running"] else None
            account["burn"] = None if known is None else rates_now(known, now)
            denied = denials_now(self._denials.get(name), now)
            account["denials"] = denied if streams["denials"]["running"] else None
        return {
            "at": now.isoformat(),
            "accounts": accounts,
            "consumers": consumers,
            "streams": streams,
            "alerts": list(self._alerts),
        }

    async def _consumers(self) -> dict[str, int]:
        """Count what each consumer of the product has still to read."""
        lags = await asyncio.gather(*map(self._lag, CONSUMERS))
        return dict(zip(CONSUMERS, lags, strict=True))

    async def _lag(self, consumer: str) -> int:
        topics = [self._cluster.topic(topic) for topic in CONSUMERS[consumer]]
        described = await describe_all(self._cluster, topics)
        rows = await self._store.pool.fetch(SQL["offsets"], described.cluster, consumer)
        kept = {(r["topic_id"], r["partition"]): r["next_offset"] for r in rows}
        return await lag_of(self._cluster, described, kept)

    async def _streams(self) -> dict[str, Value]:
        """Say of each stream whether somebody runs it, and what it has still to read."""
        groups = {name: self._cluster.group(f"streams.{name}") for name in NAMES}
        running = await at_work(self._admin, groups.values())
        return {
            name: {"running": running[group], "lag": await self._lag_of_stream(name, group)}
            for name, group in groups.items()
        }

    async def _lag_of_stream(self, name: str, group: str) -> int | None:
        """Count what a stream has not committed; None where it has never run."""
        topics = {self._cluster.topic(topic) for topic in SOURCES[name]}
        found = await committed(self._admin, group)
        offsets = {tp: offset for tp, offset in found.items() if tp.topic in topics}
        if not offsets:
            return None
        ends = await self._reader.end_offsets(list(offsets))
        return sum(max(0, int(ends[tp]) - offset) for tp, offset in offsets.items())


def rates_now(said: Value, now: datetime) -> Value:
    """Read a burn signal at a later time: no signal came since, so nothing was used since."""
    age = now - datetime.fromisoformat(said["at"])
    hour = said["per_hour"] if age < _HOUR else 0
    return {
        "per_minute": said["per_minute"] if age < _MINUTE else 0,
        "per_hour": hour,
        "per_day": said["per_day"],
        "runway_s": said["runway_s"] if hour else None,
    }


def denials_now(said: Value | None, now: datetime) -> int:
    """Give the denials of the running window: those of one that is over do not count."""
    if said is None or datetime.fromisoformat(said["window_end"]) <= now:
        return 0
    return int(said["denials"])
