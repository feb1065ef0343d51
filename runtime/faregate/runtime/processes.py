"""The processes of the product, wired from settings: the one composition root.

`run` starts one or several of them on one event loop, ends orderly on SIGTERM or SIGINT, and
raises what only a new process can mend.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Protocol

import asyncpg
import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import KafkaError

from faregate.consumers.kafka import Cluster, make_consumer, make_producer
from faregate.consumers.loop import Loop
from faregate.consumers.offsets import Offsets
from faregate.consumers.predecessor import Predecessor
from faregate.consumers.relay import Relay
from faregate.consumers.sweeper import Sweeper, SweeperSettings
from faregate.consumers.topic_ids import ClusterTopics, describe, describe_all
from faregate.consumers.watchdog import Watchdog
from faregate.events import KafkaRefused
from faregate.ledger.database import make_pool
from faregate.ledger.queries import SQL
from faregate.ledger.store import Store, open_store
from faregate.ledger.verify import check_triggers
from faregate.runtime import telemetry
from faregate.runtime.servers import ServerMissing, Servers, no_topic
from faregate.runtime.settings import DEFAULT_PORT, Settings, SettingsError

log = structlog.get_logger("faregate.process")

CONSUMERS: dict[str, tuple[str, ...]] = {
    "entitlements": ("pipeline.progress", "pipeline.requests"),
    "deduction": ("usage.recorded",),
    "progress": ("pipeline.progress",),
    "provisioning": ("users.registered",),
}
"""The consumer groups, and the topics that each reads, earlier ones first."""

NAMES = (*CONSUMERS, "relay", "sweeper", "gateway")
"""Everything that `faregate run` knows."""

ALWAYS = tuple(name for name in NAMES if name != "gateway")
"""What `faregate serve` runs; the gateway as well, where a port is given."""

TEST_CLOCK = "FAREGATE_TEST_CLOCK"
"""Allows databases whose time is moved by tests (`faregate.testing`); never set it elsewhere."""

DRAIN_S = 9.0
_CLIENT_STOP_S = 3.0
_CONNECTIONS, _GATEWAY_CONNECTIONS = 4, 10
_WELCOME_PATIENCE_S = 20.0
"""Well below the patience of those who wait for entitlements in turn."""


class LedgerUnguarded(Exception):
    """Something would let rows of the ledger be changed; no process works on it like that."""


class Process(Protocol):
    """Something that runs until it is told to stop."""

    def stop(self) -> None:
        """Finish what is in hand, then return from `run`."""

    async def run(self) -> None:
        """Run until `stop`."""


@asynccontextmanager
async def open_ledger(
    settings: Settings, servers: Servers, name: str, size: int = _CONNECTIONS
) -> AsyncIterator[Store]:
    """Open the store of the database in `servers`, as the application's role."""
    pool = await make_pool(servers.database, name=name, size=size)
    try:
        yield await open_store(pool, settings.rules(), checkpoint_every=settings.checkpoint_entries)
    finally:
        pool.terminate()


async def _guarded(pool: asyncpg.Pool) -> None:
    """Refuse to work on a ledger that could be changed (rule 5), or whose time could be."""
    async with pool.acquire() as connection:
        findings = await check_triggers(connection)
        own_clock = await connection.fetchval(SQL["own_clock"])
    if findings:
        wrong = "; ".join(f"{f.row}: {f.message}" for f in findings)
        raise LedgerUnguarded(f"the ledger is not append-only: {wrong}")
    if not own_clock and os.environ.get(TEST_CLOCK) != "1":
        raise LedgerUnguarded(
            "the time of this database is not PostgreSQL's own: it is a database of the test kit, "
            f"which only processes with {TEST_CLOCK}=1 work on"
        )


async def run(settings: Settings, servers: Servers, names: Sequence[str]) -> None:
    """Run the named processes together until SIGTERM or SIGINT."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    async with AsyncExitStack() as resources:
        resources.enter_context(telemetry.recording(names))
        started = [await _start(resources, settings, servers, name) for name in names]
        await _until_stopped(started, stopping)


async def _until_stopped(started: Sequence[Process], stopping: asyncio.Event) -> None:
    """Wait for the signal, then for each process to finish what it has in hand."""
    tasks = [asyncio.create_task(process.run()) for process in started]
    signalled = asyncio.create_task(stopping.wait())
    done, _ = await asyncio.wait([*tasks, signalled], return_when=asyncio.FIRST_COMPLETED)
    log.info("draining" if signalled in done else "process_failed")
    signalled.cancel()
    for process in started:
        process.stop()
    await asyncio.wait(tasks, timeout=DRAIN_S)
    for task in tasks:
        if not task.done():
            task.cancel()
        elif not task.cancelled() and (error := task.exception()) is not None:
            raise error
    log.info("stopped")


async def _start(
    resources: AsyncExitStack, settings: Settings, servers: Servers, name: str
) -> Process:
    if name == "gateway" and settings.gateway_workers > 1:
        return _gateway(settings, lambda: _workers(settings))
    cluster = settings.cluster(servers.kafka)
    size = _GATEWAY_CONNECTIONS if name == "gateway" else _CONNECTIONS
    store = await resources.enter_async_context(open_ledger(settings, servers, name, size))
    await _guarded(store.pool)
    if name == "relay":
        await _let_in(cluster)
        return Relay(store, cluster)
    if name == "gateway":
        return _gateway(settings, lambda: _serving(store, settings, cluster))
    if name == "sweeper":
        return Sweeper(
            store,
            SweeperSettings(settings.sweep_every_s, checkpoint_every_s=settings.checkpoint_every_s),
        )
    return await _consumer(resources, settings, store, cluster, name)


async def _let_in(cluster: Cluster) -> None:
    """Refuse to wait for a Kafka that does not let us in; one that is away is waited for."""
    try:
        await describe(cluster, [])
    except KafkaRefused:
        raise
    except KafkaError as error:
        log.warning("kafka_is_away", error=repr(error))


def _serving(store: Store, settings: Settings, cluster: Cluster) -> Process:
    from faregate.runtime import serving

    return serving.gateway(store, settings, cluster, CONSUMERS)


def _workers(settings: Settings) -> Process:
    from faregate.runtime.workers import Workers

    return Workers(settings)


def _gateway(settings: Settings, make: Callable[[], Process]) -> Process:
    if settings.oidc_issuer and not settings.oidc_audience:
        raise SettingsError(
            "FAREGATE_OIDC_ISSUER is set, but not FAREGATE_OIDC_AUDIENCE",
            "set FAREGATE_OIDC_AUDIENCE to what tokens for this gateway are meant for",
        )
    try:
        return make()
    except ImportError as error:
        message = f"the gateway's packages are not installed ({error.name})"
        raise ServerMissing(message, "pip install 'faregate[gateway]'") from error
    except OSError as error:
        place = f"{settings.gateway_host}:{settings.gateway_port or DEFAULT_PORT}"
        raise SettingsError(
            f"the gateway cannot listen on {place}: {error.strerror}",
            "set FAREGATE_GATEWAY_PORT (or --port) to a free port, 0 for any",
        ) from error


async def _consumer(
    resources: AsyncExitStack, settings: Settings, store: Store, cluster: Cluster, name: str
) -> Loop:
    topics = [cluster.topic(t) for t in CONSUMERS[name]]
    described = await _described(cluster, topics)
    consumer, dlq = make_consumer(cluster, name), make_producer(cluster, f"{name}-dlq")
    for client in (consumer, dlq):
        await client.start()
        resources.push_async_callback(_stop, client)
    offsets = Offsets(store, name, described, await _predecessor(store, cluster, name))
    loop = Loop(consumer, dlq, store, offsets, topics, prefix=cluster.prefix)
    dog = Watchdog(cluster, offsets, described, lambda: loop.waits, patience_s=settings.watchdog_s)
    watching = asyncio.create_task(dog.run())
    resources.callback(watching.cancel)
    return loop


async def _stop(client: AIOKafkaConsumer | AIOKafkaProducer) -> None:
    """Leave orderly, without waiting long for a broker that is away."""
    with suppress(TimeoutError, KafkaError):
        await asyncio.wait_for(client.stop(), _CLIENT_STOP_S)


async def _predecessor(store: Store, cluster: Cluster, name: str) -> Predecessor | None:
    """Name who has to be done first after a restore.

    Users are welcomed again as they were before anything is decided for them, and holds are made
    again before they are settled or closed again.
    """
    if name == "provisioning":
        return None
    if name == "entitlements":
        users = await _described(cluster, [cluster.topic("users.registered")])
        return Predecessor(store, cluster, "provisioning", users, patience_s=_WELCOME_PATIENCE_S)
    requests = await _described(cluster, [cluster.topic("pipeline.requests")])
    return Predecessor(store, cluster, "entitlements", requests)


async def _described(cluster: Cluster, topics: Sequence[str]) -> ClusterTopics:
    described = await describe_all(cluster, topics)
    missing = [t for t in topics if t not in described.ids]
    if missing:
        raise no_topic(*missing)
    return described
