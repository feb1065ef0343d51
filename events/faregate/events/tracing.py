"""Traces: the context that travels with a call or a record, and the spans that are recorded of it.

The context is two texts (W3C Trace Context, https://www.w3.org/TR/trace-context/) and travels
always: from HTTP headers to Kafka headers, through the ledger. Spans are recorded only where a
process has installed a recorder (`faregate.runtime.telemetry` does, with OpenTelemetry); else
`span` gives one shared object that does nothing, so nothing in here needs more than Python.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Literal, NamedTuple, Protocol, Self

Kind = Literal["internal", "server", "client", "producer", "consumer"]
Attributes = Mapping[str, str | int | bool]

TRACESTATE_MAX_CHARS = 512
"""What the specification asks to pass on at least; a longer one is left out."""

MOST_TRACES = 128
"""So many share a span at most: OpenTelemetry's own limit of links (OTEL_SPAN_LINK_COUNT_LIMIT)."""

_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
)
_TRACESTATE = re.compile(r"[\x20-\x7e]+")
_NONE: Attributes = {}


class TraceContext(NamedTuple):
    """Where in which trace something is: values of the headers `traceparent` and `tracestate`."""

    traceparent: str
    tracestate: str | None = None

    def headers(self) -> dict[str, str]:
        """Give the headers that carry it on."""
        state = {} if self.tracestate is None else {"tracestate": self.tracestate}
        return {"traceparent": self.traceparent, **state}


_current: ContextVar[TraceContext | None] = ContextVar("faregate_trace_context", default=None)


def context_of(traceparent: str | None, tracestate: str | None = None) -> TraceContext | None:
    """Read what came from outside; None where it is no context, as the specification demands."""
    if traceparent is None or not _TRACEPARENT.match(traceparent):
        return None
    if traceparent[55:] and (traceparent.startswith("00") or traceparent[55] != "-"):
        return None  # only a later version may have more
    return TraceContext(traceparent[:55], readable_state(tracestate))


def readable_state(tracestate: str | None) -> str | None:
    """Give a `tracestate` that may be passed on; None for one that is too long or no text."""
    if tracestate and len(tracestate) <= TRACESTATE_MAX_CHARS and _TRACESTATE.fullmatch(tracestate):
        return tracestate
    return None


def context_in(headers: Iterable[tuple[str | bytes, bytes]]) -> TraceContext | None:
    """Find the context in headers of HTTP or of a record; names are in lower case.

    Several `tracestate` are one list; several `traceparent` are none.
    """
    parents: list[bytes] = []
    states: list[bytes] = []
    for name, value in headers:
        if name in {"traceparent", b"traceparent"}:
            parents.append(value)
        elif name in {"tracestate", b"tracestate"}:
            states.append(value)
    if len(parents) != 1:
        return None
    state = b",".join(states).decode("latin-1") if states else None
    return context_of(parents[0].decode("latin-1").strip(), state)


def current() -> TraceContext | None:
    """Give the context of the call or span that this code runs in."""
    return _current.get()


@contextmanager
def within(context: TraceContext | None) -> Iterator[None]:
    """Let `context` be the current one for the length of the block; None: there is none."""
    token = _current.set(context)
    try:
        yield
    finally:
        _current.reset(token)


def leave() -> None:
    """Have no current context from here on: for a task that works for many callers."""
    _current.set(None)


class Span(Protocol):
    """What can be said of a span while it is open. Never say who somebody is, or a secret."""

    def named(self, name: str) -> None:
        """Give it its final name."""

    def set(self, attributes: Attributes) -> None:
        """Add attributes."""

    def failed(self, error: str) -> None:
        """Say that it failed: a status code, or the type of an error."""


class Recorder(Protocol):
    """Makes spans."""

    def span(
        self,
        name: str,
        kind: Kind,
        contexts: Iterable[TraceContext | None],
        attributes: Attributes,
        began_ns: int | None,
        *,
        mirrored: bool,
    ) -> AbstractContextManager[Span]:
        """Open a span; see the function `span`."""


class _Nothing:
    """A span that nobody records."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def named(self, name: str) -> None:
        """Do nothing."""

    def set(self, attributes: Attributes) -> None:
        """Do nothing."""

    def failed(self, error: str) -> None:
        """Do nothing."""


NOTHING: AbstractContextManager[Span] = _Nothing()
_recorder: Recorder | None = None


def install(recorder: Recorder | None) -> None:
    """Record spans with `recorder` from now on; None: record none."""
    global _recorder  # noqa: PLW0603 - one per process, as its endpoint is
    _recorder = recorder


def is_recording() -> bool:
    """Tell whether spans are recorded in this process."""
    return _recorder is not None


def span(
    name: str,
    kind: Kind = "internal",
    *,
    contexts: Iterable[TraceContext | None] = (),
    attributes: Attributes = _NONE,
    began_ns: int | None = None,
    mirrored: bool = False,
) -> AbstractContextManager[Span]:
    """Open a span for the length of a block, in which it is the current context.

    Its parent is the current context; without one the only one in `contexts`, and where there are
    several it begins a trace and links to each. `mirrored`: each of the other traces gets a span
    of the same name and times, which links back; so whoever looks at one call sees when the shared
    work for it was done. `began_ns`: when it began (Unix time), if not now.
    """
    if _recorder is None:
        return NOTHING
    return _recorder.span(name, kind, contexts, attributes, began_ns, mirrored=mirrored)


__all__ = [
    "MOST_TRACES",
    "NOTHING",
    "Attributes",
    "Kind",
    "Recorder",
    "Span",
    "TraceContext",
    "context_in",
    "context_of",
    "current",
    "install",
    "is_recording",
    "leave",
    "readable_state",
    "span",
    "within",
]
