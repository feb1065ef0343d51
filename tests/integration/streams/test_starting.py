"""What must be there before a stream starts, and what it makes for itself."""

from __future__ import annotations

from uuid import uuid4

import pytest
from tests.helpers.servers import Stack

from faregate.events.topics import TOPICS, apply_topics, partitions_of
from faregate.streams import NAMES, Options
from faregate.streams.faults import StreamsFault
from faregate.streams.internal import internal_topics
from faregate.streams.worker import make
from faregate.testing.topics import delete_topics, kafka_admin

pytestmark = pytest.mark.stack


async def test_a_stream_needs_its_topics_to_fit_together(stack: Stack) -> None:
    prefix = f"t{uuid4().hex[:10]}."
    options = Options(stack.kafka, prefix)
    ledger, checkpoints = TOPICS["credits.ledger"], TOPICS["credits.checkpoints"]
    try:
        with pytest.raises(StreamsFault, match="run: faregate topics apply"):
            await make(["burn"], options)
        await apply_topics(stack.kafka, prefix=prefix, partitions=3, topics=[ledger])
        await apply_topics(stack.kafka, prefix=prefix, partitions=2, topics=[checkpoints])
        with pytest.raises(StreamsFault, match="the same number of partitions"):
            await make(["reconcile"], options)
        internal = internal_topics(["burn"])
        await apply_topics(stack.kafka, prefix=prefix, partitions=2, topics=internal[:1])
        with pytest.raises(StreamsFault, match="has 2 partitions, and what is read has 3"):
            await make(["burn"], options)
    finally:
        await delete_topics(stack.kafka, prefix)


async def test_internal_topics_are_declared_by_us_with_the_prefix(stack: Stack) -> None:
    prefix = f"t{uuid4().hex[:10]}."
    internal = internal_topics(NAMES)
    try:
        changes = await apply_topics(stack.kafka, prefix=prefix, partitions=2, topics=internal)
        assert {change.action for change in changes} == {"created"}
        again = await apply_topics(stack.kafka, prefix=prefix, partitions=2, topics=internal)
        assert {change.action for change in again} == {"existing"}, "their settings are as declared"
        present = await partitions_of(stack.kafka)
        assert all(present[prefix + topic.name] == 2 for topic in internal)
        async with kafka_admin(stack.kafka) as client:
            ours = {name for name in await client.list_topics() if name.startswith(prefix)}
        assert ours == {prefix + topic.name for topic in internal}
    finally:
        await delete_topics(stack.kafka, prefix)
