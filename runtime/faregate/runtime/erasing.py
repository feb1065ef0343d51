"""What belongs to an erasure beside the ledger: tiers that renew, and what remains in Kafka."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError

from faregate.consumers.kafka import Cluster, make_admin
from faregate.events.topics import DAY_MS, FOREVER, all_topics, topic_name
from faregate.ledger import acts, stored
from faregate.ledger.core.renewal import gives
from faregate.ledger.pricing import price_books
from faregate.ledger.queries import SQL
from faregate.ledger.store import Store

BACKUPS = (
    "Backups and PostgreSQL's archive of its log still have what was erased, until they are "
    "deleted. After restoring one that is older than this, erase again."
)
_FREE = "free"
_PATIENCE_S = 5.0


async def end_tier(store: Store, subject: str, actor: str) -> bool:
    """Put an account whose tier renews on the free tier, so that nobody is given credits."""
    row = await store.pool.fetchrow(SQL["account"], subject)
    plan = stored.plan_of(row["plan"]) if row else None
    book = (await price_books(store.pool)).in_force(await store.pool.fetchval(SQL["now"]))
    if plan is None or plan.period_start is None or book is None or _FREE not in book.tiers:
        return False
    tier = book.tiers.get(plan.next_tier or plan.tier)
    if tier is None or not gives(tier):
        return False
    await acts.set_tier(store, subject, _FREE, now=True, actor=actor, key=str(uuid4()))
    return True


async def retention(cluster: Cluster | None, prefix: str) -> list[dict[str, Any]]:
    """Say of each topic for how long it keeps records: as the cluster has it, else as defined.

    `days` is None for a topic that keeps them for ever.
    """
    wanted = {topic_name(prefix, topic.name): topic for topic in all_topics()}
    try:
        async with asyncio.timeout(_PATIENCE_S):
            found = await _configured(cluster, list(wanted)) if cluster else {}
    except (KafkaError, OSError):  # TimeoutError is an OSError
        found = {}
    return [
        _kept(name, found.get(name, topic.retention_ms), known=name in found)
        for name, topic in wanted.items()
    ]


def _kept(name: str, retention_ms: int, *, known: bool) -> dict[str, Any]:
    days = None if retention_ms == FOREVER else round(retention_ms / DAY_MS, 2)
    return {
        "topic": name,
        "retention_ms": retention_ms,
        "days": int(days) if days is not None and days == int(days) else days,
        "from": "cluster" if known else "definition",
    }


async def _configured(cluster: Cluster, names: list[str]) -> Mapping[str, int]:
    """Read `retention.ms` of topics; those that the cluster does not have are left out."""
    admin = make_admin(cluster, timeout_s=4)
    found: dict[str, int] = {}
    try:
        await admin.start()
        resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
        for response in await admin.describe_configs(resources):
            for code, _message, _kind, name, entries in response.resources:
                values = {entry[0]: entry[1] for entry in entries}
                if not code and "retention.ms" in values:
                    found[name] = int(values["retention.ms"])
    finally:
        await admin.close()
    return found
