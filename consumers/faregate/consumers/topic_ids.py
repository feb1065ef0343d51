"""Kafka's own identity of a cluster and its topics.

Offsets are kept under (cluster, topic id), so a topic that was deleted and made again is read from
its start (rule 7). aiokafka asks for metadata up to version 5; topic ids came with version 10, so
that one request is spelled out here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import ClassVar
from uuid import UUID

from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    AbstractType,
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Schema,
    TaggedFields,
)

from faregate.consumers.kafka import Cluster, start


class _Uuid(AbstractType[bytes]):  # type: ignore[misc]
    @classmethod
    def encode(cls, value: bytes) -> bytes:
        return value

    @classmethod
    def decode(cls, data: BytesIO) -> bytes:
        return data.read(16)


class _Response(Response):  # type: ignore[misc]
    API_KEY: ClassVar[int] = 3
    API_VERSION: ClassVar[int] = 12
    SCHEMA: ClassVar[Schema] = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            CompactArray(
                ("node_id", Int32),
                ("host", CompactString()),
                ("port", Int32),
                ("rack", CompactString()),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_id", CompactString()),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("topic", CompactString()),
                ("topic_id", _Uuid),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", CompactArray(Int32)),
                        ("isr", CompactArray(Int32)),
                        ("offline_replicas", CompactArray(Int32)),
                        ("tags", TaggedFields),
                    ),
                ),
                ("authorized_operations", Int32),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class _RequestV12(RequestStruct):  # type: ignore[misc]
    FLEXIBLE_VERSION: ClassVar[bool] = True
    API_KEY: ClassVar[int] = 3
    API_VERSION: ClassVar[int] = 12
    RESPONSE_TYPE: ClassVar[type[Response]] = _Response
    SCHEMA: ClassVar[Schema] = Schema(
        (
            "topics",
            CompactArray(("topic_id", _Uuid), ("topic", CompactString()), ("tags", TaggedFields)),
        ),
        ("allow_auto_topic_creation", Boolean),
        ("include_topic_authorized_operations", Boolean),
        ("tags", TaggedFields),
    )


class _Metadata(Request[_RequestV12]):  # type: ignore[misc]
    API_KEY = 3

    def __init__(self, topics: Iterable[str]) -> None:
        self._topics: list[tuple[bytes, str, dict[int, bytes]]] = [
            (bytes(16), topic, {}) for topic in topics
        ]

    def build(self, request_struct_class: type[_RequestV12]) -> _RequestV12:
        return request_struct_class(self._topics, False, False, {})  # noqa: FBT003


_LOOKS = 5
_LOOK_AGAIN_S = 0.2


@dataclass(frozen=True, slots=True)
class ClusterTopics:
    """A cluster's id, and the ids and partition counts of the topics asked for that exist."""

    cluster: str
    ids: dict[str, UUID]
    partitions: dict[str, int]


async def describe_all(cluster: Cluster, topics: Sequence[str]) -> ClusterTopics:
    """Describe `topics`, waiting a moment for new ones: a broker knows them after its controller.

    Gives what there is after a second; raises aiokafka's errors when no broker answers.
    """
    for _ in range(_LOOKS):
        described = await describe(cluster, topics)
        if all(topic in described.ids for topic in topics):
            break
        await asyncio.sleep(_LOOK_AGAIN_S)
    return described


async def describe(cluster: Cluster, topics: Iterable[str]) -> ClusterTopics:
    """Ask a cluster who it is and for the ids of `topics`.

    Raises aiokafka's errors when no broker answers, KafkaRefused when one refuses us. Topics that do not exist are left out.
    """
    client = AIOKafkaClient(**cluster.connection(), request_timeout_ms=10_000)
    try:
        await start(client.bootstrap, cluster)
        answer = await client.send(client.get_random_node(), _Metadata(topics))
    finally:
        await client.close()
    found = [t for t in answer.topics if t[0] == 0]
    return ClusterTopics(
        answer.cluster_id or "",
        {t[1]: UUID(bytes=t[2]) for t in found},
        {t[1]: len(t[4]) for t in found},
    )
