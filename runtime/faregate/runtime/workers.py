"""Several processes behind one port: a Python process uses one core.

This process owns the sockets: one for each worker, all on the same port, over which the kernel
spreads connections. A worker that dies is started again and goes on with its own, so what waits to
be accepted is not lost. Each worker is `faregate run gateway` with an inherited socket.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from time import monotonic

import structlog
from prometheus_client.multiprocess import mark_process_dead

from faregate.gateway.metrics import SHARED_DIR
from faregate.gateway.server import listening
from faregate.runtime.settings import DEFAULT_PORT, Settings
from faregate.runtime.supervisor import die_with_parent

log = structlog.get_logger("faregate.process")

_DRAIN_S = 8.5
_POLL_S = 0.05
_PAUSE_S = 1.0
_QUICKLY_S, _QUICK_DEATHS = 10.0, 3
"""So many deaths, each so soon after its start, are for somebody else to mend."""


class WorkerFailed(Exception):
    """A worker does not stay up; its log says why."""


@dataclass(slots=True)
class _Worker:
    process: subprocess.Popen[bytes]
    started_at: float
    deaths: int = 0


class Workers:
    """The workers of one gateway. Raises OSError when the port is taken."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        port = DEFAULT_PORT if settings.gateway_port is None else settings.gateway_port
        self._sockets = _sockets(settings.gateway_host, port, settings.gateway_workers)
        self._workers: list[_Worker] = []
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Let every worker finish what is in hand, then return from `run`."""
        self._stopping.set()

    async def run(self) -> None:
        """Keep the workers running until `stop`. Raises WorkerFailed."""
        with tempfile.TemporaryDirectory(prefix="faregate-metrics-") as metrics:
            try:
                for listener in self._sockets:
                    self._workers.append(_Worker(self._spawn(listener, metrics), monotonic()))
                while not self._stopping.is_set():
                    for number, worker in enumerate(self._workers):
                        self._revive(number, worker, metrics)
                    await asyncio.sleep(_POLL_S)
                await self._end()
            except WorkerFailed:
                await self._end()  # the others finish what they have in hand
                raise
            finally:
                for worker in self._workers:
                    worker.process.kill()
                    worker.process.wait()
                for listener in self._sockets:
                    listener.close()

    def _spawn(self, listener: socket.socket, metrics: str) -> subprocess.Popen[bytes]:
        environment = {
            **os.environ,
            SHARED_DIR: metrics,
            "FAREGATE_GATEWAY_FD": str(listener.fileno()),
            "FAREGATE_GATEWAY_WORKERS": "1",
            "FAREGATE_LOG_FORMAT": self._settings.log_format,
        }
        return subprocess.Popen(
            [sys.executable, "-m", "faregate.runtime", "run", "gateway"],
            stdin=subprocess.DEVNULL,
            env=environment,
            pass_fds=[listener.fileno()],
            start_new_session=True,  # signals of a terminal come to us, and we pass them on
            preexec_fn=die_with_parent(),  # noqa: PLW1509
        )

    def _revive(self, number: int, worker: _Worker, metrics: str) -> None:
        code, age_s = worker.process.poll(), monotonic() - worker.started_at
        if code is None or age_s < _PAUSE_S:
            return
        worker.deaths = worker.deaths + 1 if age_s < _QUICKLY_S else 1
        if worker.deaths >= _QUICK_DEATHS:
            raise WorkerFailed(f"worker {number} of the gateway ended with {code}, and again")
        log.error("gateway_worker_died", worker=number, code=code)
        mark_process_dead(worker.process.pid, metrics)  # type: ignore[no-untyped-call]
        worker.process = self._spawn(self._sockets[number], metrics)
        worker.started_at = monotonic()

    async def _end(self) -> None:
        for worker in self._workers:
            if worker.process.poll() is None:
                worker.process.send_signal(signal.SIGTERM)
        for listener in self._sockets:  # else connections would be taken that nobody reads
            listener.close()
        ends = [asyncio.to_thread(worker.process.wait) for worker in self._workers]
        await asyncio.wait([asyncio.ensure_future(end) for end in ends], timeout=_DRAIN_S)


def _sockets(host: str, port: int, n: int) -> list[socket.socket]:
    """Take the port `n` times. Who has it already, alone or shared, is found out first."""
    listening(host, port).close()
    first = listening(host, port, shared=True)
    others = [listening(host, first.getsockname()[1], shared=True) for _ in range(n - 1)]
    return [first, *others]
