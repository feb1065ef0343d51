"""HTTP connections with the bounds that the server's parser lacks: the head of a request, and time.

A request that does not get as far as the application is answered with a problem, too, and its
connection is closed.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from faregate.gateway.problems import Problem, invalid
from faregate.gateway.settings import GatewaySettings

MAX_HEAD = 64_000
"""Bytes of the request line and all headers. A token may have 8,192; a JWT of Lago holds a message."""
MAX_HEADERS = 100


def head_too_large() -> Problem:
    """Give the problem of a request line and headers beyond the bounds."""
    return Problem(
        "head_too_large",
        f"Address and headers may have at most {MAX_HEAD:,} bytes in {MAX_HEADERS} headers.",
        headers={"Connection": "close"},
    )


class BoundedHttp(HttpToolsProtocol):
    """One connection. `most` of them may be open; a head must be complete within `head_s`."""

    most = 2_000
    head_s = 10.0

    _in_head = True
    _head_bytes = 0
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, or turn it away."""
        super().connection_made(transport)
        if len(self.connections) > self.most:
            busy = "Too many connections are open."
            self._refuse(Problem("check_unavailable", busy, headers={"Retry-After": "1"}))
        else:
            self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on."""
        if self.transport.is_closing():
            return
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_timer is None:
                self._arm()
        super().data_received(data)
        if self._in_head and self._head_bytes > MAX_HEAD and not self.transport.is_closing():
            self._refuse(head_too_large())

    def on_headers_complete(self) -> None:
        """Hand the request on; the application looks at the size of a head that is complete."""
        self._in_head = False
        self._disarm()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Expect the next request of this connection."""
        super().on_message_complete()
        self._in_head, self._head_bytes = True, 0

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - the server's own words
        """Answer what is not HTTP."""
        self._refuse(invalid("request", "it is not valid HTTP/1.1"))

    def _arm(self) -> None:
        self._head_timer = self.loop.call_later(self.head_s, self._late)

    def _disarm(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _late(self) -> None:
        self._head_timer = None
        if self.cycle is not None and not self.cycle.response_complete:
            self._arm()  # the answer to the request before is still under way
        elif self._head_bytes:
            late = f"Address and headers did not arrive within {self.head_s:g} s."
            self._refuse(Problem("request_timeout", late))
        else:
            self.transport.close()

    def _refuse(self, problem: Problem) -> None:
        cycle = self.cycle
        is_idle = cycle is None or cycle.response_complete
        if is_idle or not (self._in_head or cycle.response_started):  # never amid another answer
            self.transport.write(_written(problem))
        self.transport.close()


def bounded(settings: GatewaySettings) -> type[BoundedHttp]:
    """Give the connections of a gateway with these settings."""
    bounds = {"most": settings.max_connections, "head_s": settings.head_timeout_s}
    return type("GatewayHttp", (BoundedHttp,), bounds)


def _written(problem: Problem) -> bytes:
    """Write an answer out, where there is no application to do it."""
    answer = problem.response()
    headers = [*answer.raw_headers, (b"connection", b"close"), (b"cache-control", b"no-store")]
    lines = [b"%b: %b\r\n" % header for header in headers]
    first = f"HTTP/1.1 {answer.status_code} {HTTPStatus(answer.status_code).phrase}\r\n".encode()
    return b"".join((first, *lines, b"\r\n", bytes(answer.body)))
