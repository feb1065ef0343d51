"""Spans of batches of records, by OpenTelemetry's conventions for messaging.

Keys of records are not in it: they name who an event is about.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager

from faregate.consumers.reading import Batch
from faregate.events import tracing
from faregate.ledger.store import PositionOf, Result, Store


async def decided(
    store: Store, topic: str, batch: Batch, position_of: PositionOf
) -> Sequence[Result]:
    """Apply a batch read for `topic` in a span that links to each record's context."""
    submissions = [submission for _, submission in batch]
    with tracing.span(
        f"process {topic}",
        "consumer",
        contexts=(tracing.context_of(s.refs.traceparent, s.refs.tracestate) for s in submissions),
        attributes={
            "messaging.system": "kafka",
            "messaging.operation.type": "process",
            "messaging.operation.name": "process",
            "messaging.destination.name": topic,
            "messaging.batch.message_count": len(batch),
        },
    ):
        return await store.apply(submissions, position_of)


def published(
    count: int, contexts: Iterable[tracing.TraceContext | None], began_ns: int
) -> AbstractContextManager[tracing.Span]:
    """Open the span of facts that are sent together; it shows in the trace of each."""
    return tracing.span(
        "publish",
        "producer",
        contexts=contexts,
        attributes={
            "messaging.system": "kafka",
            "messaging.operation.type": "send",
            "messaging.operation.name": "publish",
            "messaging.batch.message_count": count,
        },
        began_ns=began_ns,
        mirrored=True,
    )
