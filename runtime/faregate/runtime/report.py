"""How provisioning went: who got welcome credits, in which layer, and what became of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import asyncpg

from faregate.consumers.dlq import dlq_topic_of
from faregate.consumers.kafka import Cluster
from faregate.consumers.lag import lag_of
from faregate.consumers.topic_ids import describe
from faregate.events.amounts import to_credits
from faregate.ledger.queries import SQL

LAYERS = ("eager", "lazy", "last_resort")
"""How a user can come to their welcome (contract: Provisioning), in the order of preference."""

TOPIC, CONSUMER = "users.registered", "provisioning"
_COUNTS = ("grants", "unused", "in_use", "used_up", "expired")
_AMOUNTS = {"micro": "credits", "left_micro": "left"}


async def provisioning(pool: asyncpg.Pool) -> dict[str, Any]:
    """Count users and grants, as JSON-ready values; amounts in credits."""
    async with pool.acquire() as connection:
        await connection.execute(SQL["patience"])
        users = await connection.fetchrow(SQL["report_users"])
        rows = await connection.fetch(SQL["report_grants"])
    seen, given, pending = users["seen"], users["provisioned"], users["pending"]
    welcomes = [r for r in rows if r["layer"] in LAYERS]
    layers = {row["layer"]: row for row in _sums(welcomes, "layer")}
    return {
        "users": {
            "seen": seen,
            "provisioned": given,
            "pending": pending,
            "without": seen - given - pending,
            "success": round(given / seen, 4) if seen else None,
        },
        "layers": [layers.get(name) or _empty("layer", name) for name in LAYERS],
        "arms": _sums((r for r in welcomes if r["arm"] is not None), "arm"),
        "sources": _sums(rows, "source"),
    }


def _sums(rows: Iterable[Mapping[str, Any]], by: str) -> list[dict[str, Any]]:
    """Add rows up by one of their columns."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        total = found.setdefault(row[by], dict.fromkeys((*_COUNTS, *_AMOUNTS), 0))
        for name in total:
            total[name] += row[name]
    return [_written(by, name, found[name]) for name in sorted(found)]


def _written(by: str, name: str, total: Mapping[str, int]) -> dict[str, Any]:
    amounts = {shown: to_credits(total[micro]) for micro, shown in _AMOUNTS.items()}
    return {by: name, **{n: total[n] for n in _COUNTS}, **amounts}


def _empty(by: str, name: str) -> dict[str, Any]:
    return _written(by, name, dict.fromkeys((*_COUNTS, *_AMOUNTS), 0))


async def failures(pool: asyncpg.Pool, cluster: Cluster) -> dict[str, int]:
    """Count the registrations that nobody could use, and those that nobody has read yet.

    Offsets alone are asked for, no record is read. Raises aiokafka's errors.
    """
    queue = await describe(cluster, [dlq_topic_of(cluster, TOPIC)])
    topic = await describe(cluster, [cluster.topic(TOPIC)])
    rows = await pool.fetch(SQL["offsets"], topic.cluster, CONSUMER)
    kept = {(r["topic_id"], r["partition"]): r["next_offset"] for r in rows}
    return {
        "dead_letters": await lag_of(cluster, queue, {}),
        "unread": await lag_of(cluster, topic, kept),
    }
