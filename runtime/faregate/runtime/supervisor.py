"""Product processes as real subprocesses: start, wait until ready, signal, restart, stop.

Each runs `python -m faregate.runtime run NAME` with a log file of its own and, unless detached,
ends with the process that started it, however that ends. Only what was started here is signalled.
A detached process is remembered in the home of the stack, so that `faregate stack down` stops it.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any, Self

from faregate.runtime.stack.processes import alive, identity, log_since, log_tail, stop
from faregate.runtime.stack.state import write_private

KEPT_FILE = "processes.json"
READY_EVENTS = {"relay": "relay_started", "sweeper": None, "gateway": "gateway_started"}
"""The log event that says that a process is at work; `None`: it has nothing to wait for."""

READY_S = 60.0
STOP_S = 10.0
_CONSUMER_READY = "assigned"
_POLL_S = 0.02
_BACK_OFF_S = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0)
_HEALTHY_S = 30.0
_TRIES = 3
_PR_SET_PDEATHSIG = 1


class ProcessFault(Exception):
    """A process ended, or did not do in time what was waited for; the message ends with its log."""


@dataclass(slots=True)
class _Child:
    """One process by name; `log_begin` is where the output of its newest start begins."""

    name: str
    log: Path
    env: dict[str, str]
    process: subprocess.Popen[bytes]
    log_begin: int
    started_at: float
    wanted: bool = True
    deaths: int = 0
    restart_at: float = 0.0


class Supervisor:
    """Starts and watches processes as children of this one; an async context manager.

    `env` replaces every FAREGATE_* variable of our own environment. `restart` starts a process
    again that ends without being told to, with a growing pause. `detached` processes outlive us.
    Start them from the main thread: they end with the thread that started them.
    """

    def __init__(
        self, env: Mapping[str, str], logs: Path, *, restart: bool = True, detached: bool = False
    ) -> None:
        """Keep the logs as `<logs>/<name>.log`."""
        self._env = {k: v for k, v in os.environ.items() if not k.startswith("FAREGATE_")}
        self._env |= env
        self._logs = logs
        self._restart = restart
        self._detached = detached
        self._children: dict[str, _Child] = {}
        self._watcher: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Begin to watch."""
        self._logs.mkdir(parents=True, exist_ok=True)
        if self._restart:
            self._watcher = asyncio.create_task(self._watch())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop everything; after a fault add the ends of the logs to it."""
        if error is not None:
            error.add_note(self.report())
        await self.stop()

    def start(self, name: str, env: Mapping[str, str] | None = None) -> int:
        """Start `name` (`deduction`; `deduction#2` for one more of a kind) and give its pid.

        `relay+sweeper` is one process that does the work of both.
        `env` goes over the common environment, for this start only. Raises ProcessFault when
        it runs already.
        """
        child = self._children.get(name)
        if child is not None and child.process.poll() is None:
            raise ProcessFault(f"{name} runs already as pid {child.process.pid}")
        log = self._logs / f"{name}.log"
        merged = self._env | dict(env or {})
        begin = log.stat().st_size if log.exists() else 0
        process = self._spawn(name.partition("#")[0], log, merged)
        deaths = child.deaths if child else 0
        self._children[name] = _Child(name, log, merged, process, begin, monotonic(), deaths=deaths)
        return process.pid

    def pid(self, name: str) -> int:
        """Give the pid of the newest start of `name`."""
        return self._child(name).process.pid

    def pids(self) -> dict[str, int]:
        """Give the pids of what runs."""
        return {n: c.process.pid for n, c in self._children.items() if c.process.poll() is None}

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal. Raises ProcessFault when the process has ended already."""
        child = self._child(name)
        if child.process.poll() is not None:
            raise ProcessFault(f"{name} has ended already ({child.process.returncode})")
        child.process.send_signal(number)

    def hold_back(self, name: str) -> None:
        """Do not restart `name` when it ends; `start` does."""
        self._child(name).wanted = False

    def log(self, name: str) -> str:
        """Give what `name` has logged since its newest start."""
        child = self._child(name)
        return log_since(child.log, child.log_begin)

    def report(self) -> str:
        """Give the state and the last log lines of every process."""
        parts = []
        for name, child in self._children.items():
            code = child.process.poll()
            state = "running" if code is None else f"ended with {code}"
            parts.append(f"--- {name}: {state}\n{log_tail(child.log)}")
        return "\n".join(parts)

    async def wait_ready(self, *names: str, timeout_s: float = READY_S) -> None:
        """Wait until each (all, if none is named) is at work. Raises ProcessFault."""
        until = monotonic() + timeout_s
        for name in names or tuple(self._children):
            await self._wait_for(name, partial(self._is_ready, name), "ready", until)

    async def wait_log(self, name: str, event: str, timeout_s: float = READY_S) -> None:
        """Wait until `name` has logged the event `event` since its newest start."""
        until = monotonic() + timeout_s
        await self._wait_for(name, partial(self._has_logged, name, event), event, until)

    async def wait_exit(self, name: str, timeout_s: float = READY_S) -> int:
        """Wait for the end of `name` and give its exit code (-N: by signal N)."""
        child, until = self._child(name), monotonic() + timeout_s
        while (code := child.process.poll()) is None:
            if monotonic() > until:
                raise self._fault(name, f"{name} still runs after {timeout_s:.0f} s")
            await asyncio.sleep(_POLL_S)
        return code

    async def stop(self, *names: str) -> None:
        """End each (all, if none is named): SIGTERM, ten seconds to drain, SIGKILL."""
        chosen = [self._child(n) for n in names] if names else list(self._children.values())
        for child in chosen:
            child.wanted = False
        if not names and self._watcher is not None:
            self._watcher.cancel()
        try:
            self._signal(chosen, signal.SIGTERM, signal.SIGCONT)  # a stopped one must wake to end
            await self._drain(chosen, monotonic() + STOP_S)
        finally:
            self._signal(chosen, signal.SIGKILL)
            for child in chosen:
                child.process.wait()

    async def _drain(self, children: list[_Child], until: float) -> None:
        while monotonic() < until:
            if all(c.process.poll() is not None for c in children):
                return
            await asyncio.sleep(_POLL_S)

    def keep(self, home: Path) -> None:
        """Leave the (detached) processes running and note them in `home` for `stop_kept`."""
        if self._watcher is not None:
            self._watcher.cancel()
        note_kept(home, self.pids())
        for child in self._children.values():
            child.process.returncode = child.process.returncode or 0  # they outlive this object
        self._children.clear()

    def _spawn(self, role: str, log: Path, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
        with log.open("ab") as output:
            return subprocess.Popen(  # noqa: S603 - our own command line, no shell
                [sys.executable, "-m", "faregate.runtime", "run", *role.split("+")],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(env),
                start_new_session=True,
                preexec_fn=None if self._detached else die_with_parent(),  # noqa: PLW1509
            )

    def _child(self, name: str) -> _Child:
        try:
            return self._children[name]
        except KeyError:
            raise ProcessFault(f"{name} was never started") from None

    def _signal(self, children: list[_Child], *numbers: signal.Signals) -> None:
        for child in children:
            for number in numbers:
                if child.process.poll() is None:
                    child.process.send_signal(number)

    async def _wait_for(
        self, name: str, condition: Callable[[], bool], what: str, until: float
    ) -> None:
        while not condition():
            child = self._child(name)
            code = child.process.poll()
            if code is not None and (not self._restart or child.deaths >= _TRIES):
                raise self._fault(name, f"{name} ended with {code} while {what!r} was waited for")
            if monotonic() > until:
                raise self._fault(name, f"{name} did not get to {what!r} in time")
            await asyncio.sleep(_POLL_S)

    def _fault(self, name: str, message: str) -> ProcessFault:
        return ProcessFault(f"{message}. The end of its log:\n{log_tail(self._child(name).log)}")

    def _is_ready(self, name: str) -> bool:
        event = READY_EVENTS.get(name.partition("#")[0], _CONSUMER_READY)
        if event is None:
            return self._child(name).process.poll() is None
        return self._has_logged(name, event)

    def _has_logged(self, name: str, event: str) -> bool:
        return any(line.get("event") == event for line in _json_lines(self.log(name)))

    async def _watch(self) -> None:
        while True:
            for child in list(self._children.values()):
                if child.wanted and child.process.poll() is not None:
                    self._revive(child)
            await asyncio.sleep(_POLL_S)

    def _revive(self, child: _Child) -> None:
        """Restart a dead process once its pause is over; the pause grows with quick deaths."""
        now = monotonic()
        if not child.restart_at:
            child.deaths = 1 if now - child.started_at > _HEALTHY_S else child.deaths + 1
            child.restart_at = now + _BACK_OFF_S[min(child.deaths, len(_BACK_OFF_S)) - 1]
        if now >= child.restart_at:
            child.log_begin = child.log.stat().st_size
            child.process = self._spawn(child.name.partition("#")[0], child.log, child.env)
            child.started_at, child.restart_at = now, 0.0


def die_with_parent() -> Callable[[], None]:
    """Give what a child runs before it becomes our program: it ends when we do (Linux).

    Everything it needs is looked up here, because the child of a fork must not allocate much.
    """
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def bind() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended in between
            os._exit(1)

    return bind


def note_kept(home: Path, pids: Mapping[str, int]) -> None:
    """Write down processes that stay, so that `stop_kept` finds them, and only them."""
    kept = {name: {"pid": pid, "started": identity(pid)} for name, pid in pids.items()}
    write_private(home / KEPT_FILE, kept)


def stop_kept(home: Path) -> list[str]:
    """End the processes that `keep` left in `home`; give the names of those that still ran."""
    path = home / KEPT_FILE
    try:
        kept: dict[str, dict[str, Any]] = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return []
    running = {n: k for n, k in kept.items() if alive(k.get("pid"), k.get("started"))}
    for known in running.values():  # all at once, so that they drain side by side
        os.kill(known["pid"], signal.SIGTERM)
    for known in running.values():
        stop(known["pid"], known["started"], ((signal.SIGTERM, STOP_S),))
    path.unlink(missing_ok=True)
    return sorted(running)


def _json_lines(text: str) -> list[dict[str, Any]]:
    lines = []
    for line in text.splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            lines.append(value)
    return lines
