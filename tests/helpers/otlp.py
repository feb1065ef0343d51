"""A collector in a test: takes spans by OTLP over HTTP, as a real one does, and keeps them.

with collector() as found:
    ...  # a process with found.environment
    await found.wait(lambda: found.named("publish"), "the relay's span")
"""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from time import monotonic
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


@dataclass(frozen=True, slots=True)
class Seen:
    """A span as it came. Ids are hex; `links` are (trace id, span id)."""

    service: str
    name: str
    kind: int
    trace: str
    id: str
    parent: str
    state: str
    links: frozenset[tuple[str, str]]
    attributes: dict[str, Any]
    failed: bool
    events: int
    began_ns: int
    ended_ns: int


@dataclass(slots=True)
class Collector:
    """What has come so far; `raw` are the bodies."""

    url: str = ""
    spans: list[Seen] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to send its spans here, soon."""
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": self.url, "OTEL_BSP_SCHEDULE_DELAY": "50"}

    def of(self, trace: str, name: str = "") -> list[Seen]:
        """Give the spans of a trace (of this name)."""
        return [s for s in self.spans if s.trace == trace and name in ("", s.name)]

    def named(self, name: str) -> list[Seen]:
        return [s for s in self.spans if s.name == name]

    async def wait(self, found: Callable[[], Any], what: str, timeout_s: float = 20) -> Any:
        """Wait until something is found, and give it."""
        until = monotonic() + timeout_s
        while not (result := found()):
            assert monotonic() < until, f"no {what} in {[(s.service, s.name) for s in self.spans]}"
            await asyncio.sleep(0.05)
        return result

    def take(self, body: bytes) -> None:
        self.raw.append(body)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            about = _values(resource.resource.attributes)
            for scope in resource.scope_spans:
                self.spans += [_seen(about["service.name"], span) for span in scope.spans]


def _values(attributes: Any) -> dict[str, Any]:
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in attributes}


def _seen(service: str, span: Any) -> Seen:
    return Seen(
        service,
        span.name,
        span.kind,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.trace_state,
        frozenset((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
        _values(span.attributes),
        span.status.code == 2,
        len(span.events),
        span.start_time_unix_nano,
        span.end_time_unix_nano,
    )


@contextmanager
def collector() -> Iterator[Collector]:
    """Run one on a free port."""
    made = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            fits = self.headers["content-type"] == "application/x-protobuf"
            if fits and self.path == "/v1/traces":
                made.take(body)
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200 if fits else 415)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.url = f"http://127.0.0.1:{server.server_address[1]}"
    serving = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    serving.start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        serving.join()
