"""A small upstream for LLM calls, where the report starts everything itself.

It speaks as much of OpenAI's interface as the flows need, on this machine, and answers every call
with the same text and 60 + 40 tokens. It takes one key only, so a wrong one is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from secrets import compare_digest, token_hex
from threading import Thread
from typing import Any

INPUT_TOKENS, OUTPUT_TOKENS = 60, 40
_MOST_BYTES = 1_048_576


@dataclass(frozen=True, slots=True)
class Upstream:
    """An OpenAI-compatible interface, and a key that it takes (None: it needs none)."""

    url: str
    key: str | None = field(repr=False)


@contextmanager
def upstream() -> Iterator[Upstream]:
    """Run one on a free port of this machine."""
    key = f"sk-report-{token_hex(24)}"
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(key))
    server.daemon_threads = True
    serving = Thread(target=server.serve_forever, name="upstream", daemon=True)
    serving.start()
    try:
        yield Upstream(f"http://127.0.0.1:{server.server_address[1]}/v1", key)
    finally:
        server.shutdown()
        server.server_close()
        serving.join()


def _handler(key: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer({"data": {}})

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            asked = json.loads(self.rfile.read(min(length, _MOST_BYTES)) or b"{}")
            self._answer(_completion(str(asked.get("model"))))

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

        def _answer(self, value: dict[str, Any]) -> None:
            shown = self.headers.get("Authorization", "")
            if compare_digest(shown.encode(), f"Bearer {key}".encode()):
                self._write(HTTPStatus.OK, value)
            else:
                error = {"message": "This key is not known.", "type": "invalid_api_key"}
                self._write(HTTPStatus.UNAUTHORIZED, {"error": error})

        def _write(self, status: HTTPStatus, value: dict[str, Any]) -> None:
            body = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Handler


def _completion(model: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": "Hello."}
    return {
        "id": f"chatcmpl-{token_hex(8)}",
        "object": "chat.completion",
        "created": 1,
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {
            "prompt_tokens": INPUT_TOKENS,
            "completion_tokens": OUTPUT_TOKENS,
            "total_tokens": INPUT_TOKENS + OUTPUT_TOKENS,
        },
    }
