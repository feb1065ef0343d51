"""One installation of topics for all tests of a module, and one worker that they share."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from tests.helpers.servers import Stack
from tests.helpers.streams import Streams, Worker, worker

from faregate.events.topics import apply_topics
from faregate.testing.topics import delete_topics


@pytest.fixture(scope="module")
def streams(stack: Stack) -> Iterator[Streams]:
    """Topics with two partitions each."""
    prefix = f"t{uuid4().hex[:10]}."
    asyncio.run(apply_topics(stack.kafka, prefix=prefix, partitions=2))
    yield Streams(stack.kafka, prefix)
    asyncio.run(delete_topics(stack.kafka, prefix))


@pytest.fixture(scope="module")
def all_streams(streams: Streams, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """All streams in one worker, with RocksDB and low thresholds."""
    home: Path = tmp_path_factory.mktemp("streams")
    with worker(
        streams.kafka,
        streams.prefix,
        home,
        streams_close_after_s="1",
        streams_denial_window_s="3600",
        streams_fraud_registrations="3",
        streams_reconcile_after_s="3",
    ) as running:
        yield running
