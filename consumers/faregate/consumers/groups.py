"""Whether anybody is in a consumer group, and how far it has committed.

aiokafka's own `describe_consumer_groups` reads the answer of version 3 as one of version 2 and
fails; so that one request is spelled out here, up to version 2.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import GroupCoordinatorNotAvailableError
from aiokafka.protocol.admin import (
    DescribeGroupsRequest_v0,
    DescribeGroupsRequest_v1,
    DescribeGroupsRequest_v2,
)
from aiokafka.protocol.api import Request

_AT_WORK = ("Stable", "PreparingRebalance", "CompletingRebalance")


_Versions = DescribeGroupsRequest_v0 | DescribeGroupsRequest_v1 | DescribeGroupsRequest_v2


class _Describe(Request[_Versions]):  # type: ignore[misc]
    API_KEY: ClassVar[int] = 15

    def __init__(self, group: str) -> None:
        self._group = group

    def build(self, version: Any) -> Any:
        return version([self._group])


async def at_work(admin: AIOKafkaAdminClient, groups: Iterable[str]) -> dict[str, bool]:
    """Say of each group whether it has members. Raises aiokafka's errors."""
    return {group: await _has_members(admin, group) for group in groups}


async def _has_members(admin: AIOKafkaAdminClient, group: str) -> bool:
    try:
        node = await admin.find_coordinator(group)
    except GroupCoordinatorNotAvailableError:  # a cluster in which there has been no group yet
        return False
    answer = await admin._client.send(node, _Describe(group))  # noqa: SLF001 - see above
    return any(found[2] in _AT_WORK for found in answer.groups)


async def committed(admin: AIOKafkaAdminClient, group: str) -> dict[TopicPartition, int]:
    """Give what a group has committed; nothing where it never did."""
    try:
        found = await admin.list_consumer_group_offsets(group)
    except GroupCoordinatorNotAvailableError:
        return {}
    return {tp: max(at.offset, 0) for tp, at in found.items()}
