"""One installation of topics for all tests of a module, and one worker that they share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.helpers.servers import Stack
from tests.helpers.streams import Streams, Worker, installed, worker


@pytest.fixture(scope="module")
def streams(stack: Stack) -> Iterator[Streams]:
    """Topics with two partitions each, for all tests of a module."""
    with installed(stack.kafka) as made:
        yield made


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
