"""Faregate's processes under test: started, signalled and read, as children or as containers."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from time import monotonic
from typing import Any, Literal, Protocol

from faregate.runtime.processes import ALWAYS, CONSUMERS
from faregate.runtime.supervisor import READY_EVENTS, Supervisor
from faregate.testing.patience import patient

ALL_IN_ONE = "+".join(ALWAYS)
"""The name of one process that does the work of all."""

READY_S = 60.0
_POLL_S = 0.05
_TAIL_LINES = 40

Signal = Literal["kill", "pause", "resume"]
SIGNALS = {"kill": signal.SIGKILL, "pause": signal.SIGSTOP, "resume": signal.SIGCONT}


class ProcessFailed(Exception):
    """A process of Faregate ended or did not get ready; the message ends with its log."""


class Processes(Protocol):
    """Processes by name: `deduction`, or several names with `+` between them in one process."""

    def start(self, name: str, env: Mapping[str, str] | None = None) -> None:
        """Start it; `env` goes over the common environment for this start only."""

    def send(self, name: str, what: Signal) -> None:
        """Kill, stop or continue it."""

    def running(self, name: str) -> bool:
        """Tell whether it has not ended (a paused one has not)."""

    def log(self, name: str) -> str:
        """Give what it has logged since its newest start: JSON lines."""

    def names(self) -> list[str]:
        """Name what was ever started."""

    async def stop(self, *names: str) -> None:
        """End each (all, if none is named) orderly; what does not end in ten seconds is killed."""


class Children:
    """Processes of this machine, as children of the test run."""

    def __init__(self, env: Mapping[str, str], logs: Path) -> None:
        """Keep the logs as `<logs>/<name>.log`."""
        logs.mkdir(parents=True, exist_ok=True)
        self._supervisor = Supervisor(env, logs, restart=False)
        self._names: list[str] = []

    def start(self, name: str, env: Mapping[str, str] | None = None) -> None:
        """Start it; it ends with the test run, however that ends."""
        self._supervisor.start(name, env)
        if name not in self._names:
            self._names.append(name)

    def send(self, name: str, what: Signal) -> None:
        """Send it a real signal."""
        self._supervisor.kill(name, SIGNALS[what])

    def running(self, name: str) -> bool:
        """Tell whether it has not ended."""
        return name in self._supervisor.pids()

    def log(self, name: str) -> str:
        """Give what it has logged since its newest start."""
        return self._supervisor.log(name)

    def names(self) -> list[str]:
        """Name what was ever started."""
        return list(self._names)

    async def stop(self, *names: str) -> None:
        """End each (all, if none is named) orderly."""
        await self._supervisor.stop(*names)


async def wait_ready(
    processes: Processes, prefix: str, *names: str, timeout_s: float = READY_S
) -> None:
    """Wait until each is at work: consumers have their partitions. Raises ProcessFailed."""
    timeout_s = patient(timeout_s)
    until = monotonic() + timeout_s
    for name in names:
        while not is_ready(name, processes.log(name), prefix):
            if not processes.running(name):
                raise ProcessFailed(f"{name} ended while it was started:\n{tail(processes, name)}")
            if monotonic() > until:
                late = f"{name} was not ready after {timeout_s:g} s"
                raise ProcessFailed(f"{late}:\n{tail(processes, name)}")
            await asyncio.sleep(_POLL_S)


async def wait_ended(processes: Processes, name: str, timeout_s: float) -> None:
    """Wait for its end. Raises ProcessFailed."""
    timeout_s = patient(timeout_s)
    until = monotonic() + timeout_s
    while processes.running(name):
        if monotonic() > until:
            late = f"{name} still runs after {timeout_s:g} s"
            raise ProcessFailed(f"{late}:\n{tail(processes, name)}")
        await asyncio.sleep(_POLL_S)


def is_ready(name: str, log: str, prefix: str) -> bool:
    """Tell by its log whether a process is at work."""
    events = list(_events(log))
    said = {event.get("event") for event in events}
    assigned = [
        {str(place).rpartition("[")[0] for place in event.get("partitions") or ()}
        for event in events
        if event.get("event") == "assigned"
    ]
    for role in name.split("+"):
        if role in CONSUMERS:
            if {prefix + topic for topic in CONSUMERS[role]} not in assigned:
                return False
        elif (wanted := READY_EVENTS.get(role)) is not None and wanted not in said:
            return False
    return True


def tail(processes: Processes, name: str, lines: int = _TAIL_LINES) -> str:
    """Give the end of a log."""
    return "\n".join(processes.log(name).splitlines()[-lines:])


def _events(log: str) -> Iterator[dict[str, Any]]:
    for line in log.splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            yield value
