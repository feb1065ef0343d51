"""A proxy in front of a gateway that shows one credit more than there is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import httpx

_LIES = {
    "/api/v1/credits/balance": "credits_remaining",
    "/api/credits/balance": "totalCredits",
}
_OWN = {"transfer-encoding", "content-length", "connection", "date", "server", "host"}


@dataclass(slots=True)
class Liar:
    """Where it is, and the trace ids that went through it."""

    url: str = ""
    seen: set[str] = field(default_factory=set)


@contextmanager
def liar(behind: str) -> Iterator[Liar]:
    """Run one in front of `behind`."""
    made = Liar()
    with httpx.Client(base_url=behind, timeout=30, trust_env=False) as http:
        server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(made, http))
        serving = Thread(target=server.serve_forever)
        serving.start()
        made.url = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield made
        finally:
            server.shutdown()
            serving.join()
            server.server_close()


def _handler(made: Liar, http: httpx.Client) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {k: v for k, v in self.headers.items() if k.lower() not in _OWN}
            made.seen.add(self.headers.get("traceparent", "-").split("-")[1])
            answer = http.request(self.command, self.path, content=body, headers=headers)
            content = answer.content
            if self.path in _LIES:
                document = json.loads(content)
                document[_LIES[self.path]] += 1
                content = json.dumps(document).encode()
            self.send_response(answer.status_code)
            for name, value in answer.headers.items():
                if name.lower() not in _OWN:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_POST(self) -> None:
            self.do_GET()

        def do_DELETE(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

    return Handler
