"""The gateway as a process of the product: its settings, and what it needs to know of Kafka."""

from __future__ import annotations

import asyncio
import importlib.metadata
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from time import monotonic
from typing import Any

from aiokafka.errors import KafkaError

from faregate.consumers import collector
from faregate.consumers.kafka import Cluster
from faregate.consumers.lag import lag_of
from faregate.consumers.topic_ids import describe
from faregate.gateway.byok.memory import forbid_core_dumps
from faregate.gateway.server import GatewayProcess, make_gateway
from faregate.gateway.settings import GatewaySettings
from faregate.ledger.database import TRANSIENT
from faregate.ledger.queries import SQL
from faregate.ledger.store import Store
from faregate.runtime import fraud
from faregate.runtime.dead_letters import Queues
from faregate.runtime.lago_serving import lago_settings
from faregate.runtime.llm_serving import llm_settings
from faregate.runtime.settings import DEFAULT_PORT, Settings

_PROBE_S = 5.0
_REMEMBERED_S = 2.0
_FRAUD_S = 10.0

Check = dict[str, Any]


def gateway(
    store: Store, settings: Settings, cluster: Cluster, consumers: Mapping[str, tuple[str, ...]]
) -> GatewayProcess:
    """Make the process. Raises OSError when its port is taken."""
    forbid_core_dumps()  # it opens users' keys
    probe = Probe(store, cluster, consumers)
    process = GatewayProcess(
        make_gateway(
            store,
            gateway_settings(settings),
            probe,
            Queues(cluster),
            partial(_fraud_cases, cluster),
        )
    )
    collector.settle()
    return process


async def _fraud_cases(cluster: Cluster) -> Mapping[str, dict[str, Any]]:
    """Read the suspicions of fraud. Raises OSError when Kafka is away."""
    try:
        async with asyncio.timeout(_FRAUD_S):
            return await fraud.cases(cluster)
    except KafkaError as error:
        raise ConnectionError("Kafka does not answer") from error


def gateway_settings(settings: Settings) -> GatewaySettings:
    """Give what is set about the gateway."""
    return GatewaySettings(
        host=settings.gateway_host,
        port=DEFAULT_PORT if settings.gateway_port is None else settings.gateway_port,
        listener_fd=settings.gateway_fd,
        version=importlib.metadata.version("faregate"),
        docs=settings.gateway_docs,
        cors_origins=tuple(settings.gateway_cors_origins.split()),
        oidc_issuer=settings.oidc_issuer,
        oidc_audience=settings.oidc_audience,
        oidc_keys_s=settings.oidc_keys_s,
        identity_webhook_secret=settings.identity_webhook_secret,
        token_ttl_s=settings.gateway_token_ttl_s,
        sign_ins_per_minute=settings.gateway_sign_ins_per_minute,
        trusted_proxies=settings.gateway_trusted_proxies,
        max_body=settings.gateway_max_body_bytes,
        timeout_s=settings.gateway_timeout_s,
        self_purchase=settings.gateway_self_purchase,
        llm=llm_settings(settings),
        lago=lago_settings(settings),
    )


class Probe:
    """Asks Kafka and the database, at most every two seconds, whoever asks how often."""

    def __init__(
        self, store: Store, cluster: Cluster, consumers: Mapping[str, tuple[str, ...]]
    ) -> None:
        self._store = store
        self._cluster = cluster
        self._consumers = consumers
        self._lock = asyncio.Lock()
        self._at = -_REMEMBERED_S
        self._found: Mapping[str, Check] = {}

    async def __call__(self) -> Mapping[str, Check]:
        """Give `kafka`, `database` and `lag` (records that each consumer has still to read)."""
        async with self._lock:
            if monotonic() - self._at >= _REMEMBERED_S:
                names = ("kafka", "database", "lag")
                asked = await asyncio.gather(
                    _checked(self._kafka), _checked(self._database), _checked(self._lag)
                )
                self._found = dict(zip(names, asked, strict=True))
                self._at = monotonic()
        return self._found

    async def _kafka(self) -> Check:
        found = await describe(self._cluster, [])
        return {"cluster": found.cluster}

    async def _database(self) -> Check:
        row = await self._store.pool.fetchrow(SQL["waiting"])
        return {"outbox": row["outbox"], "overdue_holds": row["overdue_holds"]}

    async def _lag(self) -> Check:
        return {name: await self._lag_of(name) for name in self._consumers}

    async def _lag_of(self, consumer: str) -> int:
        topics = [self._cluster.topic(t) for t in self._consumers[consumer]]
        described = await describe(self._cluster, topics)
        rows = await self._store.pool.fetch(SQL["offsets"], described.cluster, consumer)
        kept = {(r["topic_id"], r["partition"]): r["next_offset"] for r in rows}
        return await lag_of(self._cluster, described, kept)


async def _checked(ask: Callable[[], Awaitable[Check]]) -> Check:
    try:
        async with asyncio.timeout(_PROBE_S):
            return {"ok": True, **await ask()}
    except (KafkaError, *TRANSIENT) as error:
        return {"ok": False, "error": type(error).__name__}
