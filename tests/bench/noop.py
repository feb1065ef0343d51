"""The yardstick of HTTP: FastAPI doing nothing, served as the gateway is."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys

import uvicorn
import uvloop
from fastapi import FastAPI
from tests.bench.client import HOST

from faregate.consumers import collector

app = FastAPI(openapi_url=None)


@app.post("/noop")
async def noop() -> dict[str, bool]:
    """Answer."""
    return {"ok": True}


async def main() -> None:
    """Serve until SIGTERM."""
    listener = socket.socket()
    listener.bind((HOST, 0))
    listener.listen(2048)
    listener.setblocking(False)
    config = uvicorn.Config(app, lifespan="off", log_config=None, access_log=False)
    server = uvicorn.Server(config)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, lambda: setattr(server, "should_exit", True))
    collector.settle()
    line = {"event": "gateway_started", "level": "info", "port": listener.getsockname()[1]}
    sys.stderr.write(json.dumps(line) + "\n")
    sys.stderr.flush()
    await server._serve([listener])


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
