"""Where partitions end, asked over a connection of its own.

A broker answers the requests of one connection one after the other. On the consumer's connection
the question would wait behind its long poll until some record comes, up to `fetch_max_wait_ms`.
"""

from __future__ import annotations

from aiokafka import AIOKafkaConsumer

from faregate.consumers.kafka import Cluster


def make_asker(cluster: Cluster, consumer: str) -> AIOKafkaConsumer:
    """Make a client that reads nothing and is only asked for `end_offsets`."""
    return AIOKafkaConsumer(
        bootstrap_servers=cluster.bootstrap,
        client_id=f"faregate-{consumer}-ends",
        enable_auto_commit=False,
        isolation_level="read_committed",
        request_timeout_ms=20_000,
        metadata_max_age_ms=30_000,
    )
