"""The recorder of spans: the only module that knows OpenTelemetry's SDK.

What is exported is what the callers of `tracing.span` say, and nothing that an exception says:
messages of drivers and providers quote rows, keys and addresses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from threading import Thread
from time import time_ns
from types import TracebackType
from typing import Self

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import (
    SERVICE_NAME,
    SERVICE_VERSION,
    OTELResourceDetector,
    Resource,
)
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode
from opentelemetry.trace.span import TraceFlags, TraceState

from faregate.events import tracing
from faregate.events.tracing import MOST_TRACES, Attributes, Kind, TraceContext

MIRROR = "faregate.mirror"
"""Set on a span that shows, in the trace of one call, work that was shared with others."""

_GIVE_UP_S = 0.2
_KNOWN_FLAGS = 0x03
"""Sampled, and that the trace id is random (level 2)."""

_KINDS = {kind.name.lower(): kind for kind in SpanKind}


def make(service: str, version: str) -> tuple[Recorder, Callable[[float], None]]:
    """Make a recorder that sends to the endpoint of the environment, and what ends it.

    The end sends what is left, for so many seconds at most. Its provider is no global one:
    libraries that record by themselves would say more than we do.
    """
    ours = {SERVICE_NAME: service, SERVICE_VERSION: version}
    resource = Resource.create(ours).merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    exporter: SpanExporter = OTLPSpanExporter()
    provider.add_span_processor(BatchSpanProcessor(exporter))

    def end(timeout_s: float) -> None:
        ending = Thread(target=provider.shutdown, daemon=True)
        ending.start()
        ending.join(timeout_s)
        if ending.is_alive():  # the collector is away: try no more
            exporter.shutdown()
            ending.join(_GIVE_UP_S)

    return Recorder(provider.get_tracer("faregate", version)), end


class Recorder:
    """Makes spans with a tracer of OpenTelemetry."""

    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer

    def span(
        self,
        name: str,
        kind: Kind,
        contexts: Iterable[TraceContext | None],
        attributes: Attributes,
        began_ns: int | None,
        *,
        mirrored: bool,
    ) -> OpenSpan:
        """Open a span; see `tracing.span`."""
        parent, others = _placed(contexts)
        began_ns = began_ns or time_ns()
        links = [Link(other) for other in others]
        span = _start(self._tracer, name, kind, parent, links, attributes, began_ns)
        mirrors = [
            _start(self._tracer, name, kind, other, [Link(span.get_span_context())], {}, began_ns)
            for other in (others if mirrored else ())
        ]
        return OpenSpan([span, *(m for m in mirrors if m.is_recording())], attributes)


class OpenSpan:
    """A span and its mirror images in other traces: all are told the same, and end together."""

    def __init__(self, spans: Sequence[trace.Span], attributes: Attributes) -> None:
        self._spans = spans
        self._failed = False
        self._within = tracing.within(_context_of(spans[0]))
        for mirror in spans[1:]:
            mirror.set_attributes({**attributes, MIRROR: True})

    def __enter__(self) -> Self:
        self._within.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._within.__exit__(None, None, None)
        if kind is not None:
            self.failed(kind.__qualname__)
        ended_ns = time_ns()
        for span in self._spans:
            span.end(ended_ns)

    def named(self, name: str) -> None:
        """Give it its final name."""
        for span in self._spans:
            span.update_name(name)

    def set(self, attributes: Attributes) -> None:
        """Add attributes."""
        for span in self._spans:
            span.set_attributes(attributes)

    def failed(self, error: str) -> None:
        """Say that it failed; what is said first counts."""
        if not self._failed:
            self._failed = True
            self.set({"error.type": error})
            for span in self._spans:
                span.set_status(Status(StatusCode.ERROR))


def _placed(
    contexts: Iterable[TraceContext | None],
) -> tuple[SpanContext | None, list[SpanContext]]:
    """Choose the parent, and the other traces that a span is about."""
    found = [_span_context(context) for context in _first_of(contexts)]
    current = tracing.current()
    parent = _span_context(current) if current else found[0] if len(found) == 1 else None
    ours = parent.trace_id if parent else 0
    return parent, [c for c in found if c.trace_id != ours]


def _first_of(contexts: Iterable[TraceContext | None]) -> list[TraceContext]:
    """Give so many different ones as may share a span, and look at no more."""
    found: dict[TraceContext, None] = {}
    for context in contexts:
        if context is not None:
            found[context] = None
            if len(found) == MOST_TRACES:
                break
    return list(found)


def _start(
    tracer: trace.Tracer,
    name: str,
    kind: Kind,
    parent: SpanContext | None,
    links: Sequence[Link],
    attributes: Attributes,
    began_ns: int,
) -> trace.Span:
    place = Context()  # never what another library has left in this task
    if parent is not None:
        place = trace.set_span_in_context(NonRecordingSpan(parent), place)
    return tracer.start_span(name, place, _KINDS[kind], attributes, links, began_ns)


def _span_context(context: TraceContext) -> SpanContext:
    """Read a context that `tracing.context_of` has checked."""
    _, trace_id, span_id, flags = context.traceparent.split("-")
    state = TraceState.from_header([context.tracestate]) if context.tracestate else None
    return SpanContext(
        int(trace_id, 16),
        int(span_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(int(flags, 16) & _KNOWN_FLAGS),
        trace_state=state,
    )


def _context_of(span: trace.Span) -> TraceContext:
    """Write a span's context as headers have it."""
    at = span.get_span_context()
    state = at.trace_state.to_header() or None
    return TraceContext(f"00-{at.trace_id:032x}-{at.span_id:016x}-{at.trace_flags:02x}", state)
