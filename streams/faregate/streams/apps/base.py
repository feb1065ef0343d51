"""What all streams share: a Faust application with safe settings, tables that end, signals.

Faust's defaults that are changed here, and why: its web server (it would listen on all
interfaces), creating topics (ours are declared), standby tables (each would double the changelog
traffic), reading what a transaction has not committed.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from heapq import heappush
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import faust
from faust.serializers import codecs
from faust.transport.drivers import aiokafka as driver
from faust.types.windows import WindowRange_from_start
from pydantic_core import from_json, to_json

from faregate.events import Event, EventData, encode, routing_subject, topic_name
from faregate.events.topics import TOPIC_OF_TYPE
from faregate.streams.internal import TABLES
from faregate.streams.options import Options
from faregate.streams.reading import Reader
from faregate.streams.sources import application

SOURCE = "faregate/streams"
_JSON = "faregate_json"
_COMMIT_EVERY_S = 1.0
_CLEAN_EVERY_S = 10.0


class _Json(codecs.Codec):
    """JSON at three times the speed of Faust's own, with what is installed anyway."""

    def _dumps(self, obj: Any) -> bytes:
        return to_json(obj)

    def _loads(self, s: bytes) -> Any:
        return from_json(s)


codecs.register(_JSON, _Json())


class EndingTable(faust.Table[Any, Any]):
    """A table whose old windows are really forgotten.

    Faust remembers the end of a window once for each write to it, and after a restart it knows
    none of the windows that are in RocksDB already. Here each window is remembered once, and
    those that are there are found again when the table has recovered.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.key_serializer = self.value_serializer = _JSON

    def _maybe_set_key_ttl(self, key: Any, partition: int) -> None:
        if not self._should_expire_keys():
            return
        end = key[1][1]
        keys = self._partition_timestamp_keys[partition, end]
        if not keys:
            heappush(self._partition_timestamps[partition], end)
        latest = self._partition_latest_timestamp
        latest[partition] = max(latest[partition], end)
        keys.add(key)

    async def on_recovery_completed(self, active_tps: Any, standby_tps: Any) -> None:
        """Find the windows that were there before."""
        await super().on_recovery_completed(active_tps, standby_tps)
        if self._should_expire_keys():
            self._partition_timestamps.clear()
            self._partition_timestamp_keys.clear()
            for key in self.data:
                # By which partition they are remembered does not matter for forgetting them.
                self._maybe_set_key_ttl(self._to_key(key), 0)


class _ConsumerThread(driver.AIOKafkaConsumerThread):
    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._isolation_level = "read_committed"  # noqa: SLF001 - Faust has no setting for it
        consumer._fetch_max_wait_ms = 250  # noqa: SLF001 - nor for this: 1.5 s in its code
        return consumer

    async def give_back(self, records: Mapping[Any, Sequence[Any]]) -> None:
        """Read these again next."""
        await self.call_thread(self._give_back, records)

    async def _give_back(self, records: Mapping[Any, Sequence[Any]]) -> None:
        consumer = self._ensure_consumer()
        subscription = consumer._subscription.subscription  # noqa: SLF001 - to look without waiting
        assignment = subscription.assignment if subscription else None
        for tp, found in records.items():
            state = assignment.state_value(tp) if assignment else None
            # A partition that was assigned again since has no position: it is read anew.
            if state and state.has_valid_position and state.position > found[0].offset:
                consumer.seek(tp, found[0].offset)


class _Consumer(driver.Consumer):
    def _new_consumer_thread(self) -> _ConsumerThread:
        return _ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def _wait_next_records(self, seconds: float) -> Any:
        """Lose nothing of a partition that was given to us while this waited.

        Faust throws away what comes while its flow is stopped, and seeks back to what has been
        committed. Of a changelog that is nothing, nor of a partition whose worker was killed early:
        its records were never read, and a table never recovered.
        """
        records, active = await super()._wait_next_records(seconds)
        if not records or self.should_stop:
            return records, active
        wanted = records.keys() & self._wanted(records, active)
        if len(wanted) < len(records):
            thread: Any = self._thread
            await thread.give_back({tp: found for tp, found in records.items() if tp not in wanted})
        return {tp: found for tp, found in records.items() if tp in wanted}, active

    def _wanted(self, records: Mapping[Any, Sequence[Any]], active: set[Any] | None) -> set[Any]:
        """Give those partitions whose records Faust would take now."""
        if not self.flow_active:
            return set()
        if active is None:
            return set(records)
        return active | self._buffered_partitions


class _Transport(driver.Transport):
    Consumer = _Consumer


class _App(faust.App):
    def _create_directories(self) -> None:
        if self.conf.store.scheme != "memory":
            Path(self.conf.tabledir).mkdir(parents=True, exist_ok=True)


class Stream:
    """One stream: its Faust application, its tables, its reader, and how it says something."""

    def __init__(self, name: str, options: Options, partitions: int) -> None:
        self.name = name
        self.options = options
        self.partitions = partitions
        self.reader = Reader(name)
        self.sent = 0
        self.app = _make_app(name, options, partitions)
        self._outputs: dict[str, Any] = {}

    def source(self, topic: str) -> Any:
        """Give one of the contract's topics as what an agent reads: bytes, decoded by us."""
        return self._topic(topic_name(self.options.prefix, topic))

    def _topic(self, full_name: str) -> Any:
        return self.app.topic(
            full_name, key_serializer="raw", value_serializer="raw", allow_empty=True
        )

    def internal(self, full_name: str) -> Any:
        """Give an internal topic: its values are JSON."""
        return self.app.topic(full_name, key_serializer="raw", value_serializer="json")

    def table(self, name: str, default: Callable[[], Any] | None = None) -> Any:
        """Make a table without windows; it must be in `internal.TABLES`."""
        if TABLES[self.name][name] is not None:
            raise ValueError(f"{name} is a table of windows")
        return self.app.Table(name, default=default, partitions=self.partitions)

    def hopping(self, name: str, size: float, step: float, now: Callable[[], float]) -> Any:
        """Make a table of hopping windows over the event time that `now` gives."""
        expires = TABLES[self.name][name]
        table = self.app.Table(name, default=_nothing, partitions=self.partitions)
        return table.hopping(size, step, expires=expires).relative_to(lambda _event: now())

    def tumbling(self, name: str, size: float, now: Callable[[], float]) -> Any:
        """Make a table of windows side by side over the event time that `now` gives."""
        expires = TABLES[self.name][name]
        table = self.app.Table(name, default=_nothing, partitions=self.partitions)
        return table.tumbling(size, expires=expires).relative_to(lambda _event: now())

    async def say(self, data: EventData, *about: object, at: datetime) -> None:
        """Publish a signal. `about` names it: said again, it has the id it had."""
        kind = type(data).__name__
        event_id = uuid5(NAMESPACE_URL, "\n".join((SOURCE, kind, *map(str, about))))
        event = Event(id=str(event_id), source=SOURCE, type=kind, data=data.to_data(), time=at)
        value, headers = encode(event)
        topic = topic_name(self.options.prefix, TOPIC_OF_TYPE[kind])
        if topic not in self._outputs:
            self._outputs[topic] = self._topic(topic)
        self.sent += 1
        key = routing_subject(data).encode()
        await self._outputs[topic].send(key=key, value=value, headers=headers, force=True)


def span(start: float, size: float) -> Any:
    """Give the key that Faust has for the window that begins at `start`."""
    return WindowRange_from_start(float(start), float(size))


def _nothing() -> None:
    return None


def _credentials(kafka: Mapping[str, Any]) -> faust.auth.Credentials | None:
    """Give Faust's words for how aiokafka comes in."""
    protocol, context = kafka.get("security_protocol"), kafka.get("ssl_context")
    if protocol in ("SASL_SSL", "SASL_PLAINTEXT"):
        return faust.SASLCredentials(
            mechanism=kafka["sasl_mechanism"],
            username=kafka["sasl_plain_username"],
            password=kafka["sasl_plain_password"],
            ssl_context=context,
        )
    return faust.SSLCredentials(context) if protocol == "SSL" else None


def _make_app(name: str, options: Options, partitions: int) -> Any:
    app = _App(
        application(options.prefix, name),
        broker=[f"kafka://{server}" for server in options.bootstrap.split(",")],
        broker_credentials=_credentials(options.kafka),
        store="memory://" if options.directory is None else "rocksdb://",
        datadir=str((options.directory or Path()) / name),
        Table=EndingTable,
        web_enabled=False,
        autodiscover=False,
        logging_config=None,
        topic_allow_declare=False,
        topic_disable_leader=True,
        topic_partitions=partitions,
        table_standby_replicas=0,
        table_cleanup_interval=_CLEAN_EVERY_S,
        consumer_auto_offset_reset="earliest",
        consumer_metadata_max_age_ms=30_000,
        broker_commit_interval=_COMMIT_EVERY_S,
        broker_session_timeout=options.session_timeout_s,
        broker_heartbeat_interval=options.session_timeout_s / 5,
        broker_request_timeout=max(40.0, options.session_timeout_s + 10),
        broker_max_poll_interval=300.0,
        producer_acks=-1,
        producer_linger=0.005,
        stream_wait_empty=False,
        stream_buffer_maxsize=4096,
        key_serializer="raw",
        value_serializer="raw",
    )
    app.transport = _Transport(app.conf.broker_consumer, app)
    return app
