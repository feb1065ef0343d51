"""Bring an embedded Kafka and PostgreSQL up and down: plain functions, one stack per home."""

import contextlib
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from faregate.runtime.stack import jars, kafka, postgres
from faregate.runtime.stack import state as states
from faregate.runtime.stack.errors import StackError
from faregate.runtime.stack.processes import HOST, alive, exclusive
from faregate.runtime.stack.state import State

Progress = Callable[[str], None]


@dataclass
class StackInfo:
    """A stack as its users see it. A server that is not part of it has an empty address."""

    kafka: str
    database: str = field(repr=False)  # it holds the password
    home: Path
    ephemeral: bool
    kafka_pid: int | None
    postgres_pid: int | None
    kafka_alive: bool
    postgres_alive: bool
    logs: dict[str, Path]
    gateway: str | None = None


def up(
    home: Path | None = None,
    *,
    ephemeral: bool = False,
    progress: Progress | None = None,
    kafka: bool = True,
    database: bool = True,
    kafka_settings: Mapping[str, str] | None = None,
    database_settings: Mapping[str, str] | None = None,
) -> StackInfo:
    """Start what is not running of the stack in `home` and return it, ready for use.

    `ephemeral` keeps the data in a new temporary directory that `down` deletes. `progress` gets
    short lines for people. The settings go over ours and are remembered for later starts; a server
    that already runs keeps its own until it is restarted.
    Raises StackError; then no server that this call started is left running.
    """
    home = _resolve(home)
    say = _quiet_or(progress)
    with _locked(home, say):
        state = _open(home, ephemeral=ephemeral)
        state.kafka.settings.update(kafka_settings or {})
        state.postgres.settings.update(database_settings or {})
        _start_servers(state, say, with_kafka=kafka, with_database=database)
        return _info(state)


def down(home: Path | None = None) -> bool:
    """Stop the stack in `home`; delete the data of an ephemeral one. Say whether there was one.

    Raises StackError when a server does not end.
    """
    home = _resolve(home)
    if not home.is_dir():
        return False
    with _locked(home):
        state = states.load(home)
        if state is None:
            return False
        existed = state.started or state.ephemeral
        _tear_down(state)
        return existed


def status(home: Path | None = None) -> StackInfo | None:
    """Return the stack in `home`, None when none is up. A server that died has `…_alive` False.

    Raises StackError when the state cannot be read.
    """
    state = states.load(_resolve(home))
    return _info(state) if state is not None and state.started else None


@contextlib.contextmanager
def running(
    *,
    progress: Progress | None = None,
    kafka: bool = True,
    database: bool = True,
    kafka_settings: Mapping[str, str] | None = None,
    database_settings: Mapping[str, str] | None = None,
) -> Iterator[StackInfo]:
    """Run an ephemeral stack of its own for the length of a `with` block.

    Nothing of it is left afterwards. What a killed process could not clean up itself is cleaned up
    by the next call of this function.
    """
    _sweep()
    home = Path(tempfile.mkdtemp(prefix=states.EPHEMERAL_HOME_PREFIX))
    home.chmod(0o711)
    try:
        states.create(home, ephemeral=True, owned=True)
        yield up(
            home,
            ephemeral=True,
            progress=progress,
            kafka=kafka,
            database=database,
            kafka_settings=kafka_settings,
            database_settings=database_settings,
        )
    finally:
        down(home)
        shutil.rmtree(home, ignore_errors=True)


def stop_kafka(info: StackInfo) -> None:
    """Stop the broker of this stack; its data and port stay."""
    with _locked(info.home):
        kafka.shut_down(_existing(info.home))


def start_kafka(info: StackInfo) -> StackInfo:
    """Start the broker again on the same data and port. Raises StackError if the port is taken."""
    with _locked(info.home):
        state = _existing(info.home)
        kafka.start(state, jars.ensure(_silent), _never, same_port=True)
        return _info(state)


def restart_kafka(info: StackInfo) -> StackInfo:
    """Stop the broker, then start it on the same data and port."""
    stop_kafka(info)
    return start_kafka(info)


def stop_postgres(info: StackInfo, mode: Literal["fast", "immediate"] = "fast") -> None:
    """Stop the database server; `immediate` leaves it to recover at the next start."""
    with _locked(info.home):
        postgres.shut_down(_existing(info.home), immediate=mode == "immediate")


def start_postgres(info: StackInfo) -> StackInfo:
    """Start the server again on the same data and port. Raises StackError if the port is taken."""
    with _locked(info.home):
        state = _existing(info.home)
        postgres.start(state, _never, same_port=True)
        return _info(state)


def restart_postgres(info: StackInfo, mode: Literal["fast", "immediate"] = "fast") -> StackInfo:
    """Stop the database server in this mode, then start it on the same data and port."""
    stop_postgres(info, mode)
    return start_postgres(info)


def _resolve(home: Path | None) -> Path:
    return (home or states.default_home()).expanduser().resolve()


def _silent(_line: str) -> None:
    return


def _never() -> bool:
    return False


def _quiet_or(progress: Progress | None) -> Progress:
    """Return a function that passes lines to `progress` one at a time, from whatever thread."""
    if progress is None:
        return _silent
    speaking = threading.Lock()

    def say(line: str) -> None:
        with speaking:
            progress(line)

    return say


def _locked(home: Path, say: Progress = _silent) -> contextlib.AbstractContextManager[None]:
    waiting = f"Waiting for another process that works on the stack in {home}"
    return exclusive(home / states.LOCK_FILE, waiting=lambda: say(waiting))


def _existing(home: Path) -> State:
    state = states.load(home)
    if state is None:
        raise StackError(f"There is no stack in {home}.", "Run: faregate stack up.")
    return state


def _open(home: Path, *, ephemeral: bool) -> State:
    """Return the state to start from: the one that is there, or a new one."""
    state = states.load(home)
    if state is None:
        return states.create(home, ephemeral=ephemeral)
    if state.ephemeral == ephemeral:
        return state
    if state.alive:
        kind = "An ephemeral" if state.ephemeral else "A lasting"
        raise StackError(
            f"{kind} stack already runs in {home}.",
            "Stop it first (faregate stack down), or choose another home by FAREGATE_HOME.",
        )
    if state.ephemeral:
        _tear_down(state)
        state = states.load(home)
        return state or states.create(home, ephemeral=False)
    return states.create(home, ephemeral=True)


def _start_servers(state: State, say: Progress, *, with_kafka: bool, with_database: bool) -> None:
    """Start both at once; if one fails, stop what this call started and raise its error."""
    begun = time.monotonic()
    kafka_ran, postgres_ran = state.kafka.alive, state.postgres.alive
    cancel = threading.Event()

    def run_kafka() -> None:
        if not (kafka_ran and kafka.is_ready(state)):
            directory = jars.ensure(say, cancelled=cancel.is_set)
            say("Kafka: starting")
            kafka.start(state, directory, cancel.is_set, same_port=False)
            say(f"Kafka: ready at {HOST}:{state.kafka.port} ({time.monotonic() - begun:.1f} s)")

    def run_postgres() -> None:
        if not (postgres_ran and postgres.is_ready(state)):
            say("PostgreSQL: starting")
            postgres.start(state, cancel.is_set, same_port=False)
            port = state.postgres.port
            say(f"PostgreSQL: ready at {HOST}:{port} ({time.monotonic() - begun:.1f} s)")

    with ThreadPoolExecutor(2, thread_name_prefix="stack") as pool:
        wanted = [run_kafka] * with_kafka + [run_postgres] * with_database
        pending = [pool.submit(work) for work in wanted]
        try:
            for future in as_completed(pending):
                future.result()
        except BaseException:
            cancel.set()
            pool.shutdown(wait=True)
            if not kafka_ran:
                kafka.shut_down(state)
            if not postgres_ran:
                postgres.shut_down(state)
            raise


def _tear_down(state: State) -> None:
    with ThreadPoolExecutor(2) as pool:
        pending = [pool.submit(kafka.shut_down, state), pool.submit(postgres.shut_down, state)]
        for future in pending:
            future.result()
    if state.ephemeral:
        if state.postgres.data:
            shutil.rmtree(state.postgres.data, ignore_errors=True)
        if state.data.name.startswith(states.EPHEMERAL_PREFIX):
            shutil.rmtree(state.data, ignore_errors=True)
        states.forget_pointer(state.home)


def _sweep() -> None:
    """Tear down the stacks of `running` blocks whose process is gone (it was killed)."""
    for home in Path(tempfile.gettempdir()).glob(states.EPHEMERAL_HOME_PREFIX + "*"):
        with contextlib.suppress(StackError, OSError):
            if home.stat().st_uid != os.geteuid():
                continue
            state = states.load(home)
            if state and state.owner_pid and not alive(state.owner_pid, state.owner_started):
                down(home)
                shutil.rmtree(home, ignore_errors=True)


def _info(state: State) -> StackInfo:
    broker, server = state.kafka, state.postgres
    return StackInfo(
        kafka=f"{HOST}:{broker.port}" if broker.pid else "",
        database=server.url if server.pid else "",
        home=state.home,
        ephemeral=state.ephemeral,
        kafka_pid=broker.pid,
        postgres_pid=server.pid,
        kafka_alive=broker.alive,
        postgres_alive=server.alive,
        logs={"kafka": state.kafka_log, "postgres": state.postgres_log},
    )
