"""What a stack remembers between commands: where its data is, its ports, pids and password.

A home holds either a lasting stack (its data in the home itself) or, in `ephemeral.json`, a pointer
to a temporary directory with the data of an ephemeral one. The state lies beside the data in both
cases, readable by its owner only, because it holds the database password.
"""

import contextlib
import dataclasses
import json
import os
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faregate.runtime.stack.errors import StackError
from faregate.runtime.stack.processes import HOST, alive, identity

STATE_FILE = "stack.json"
POINTER_FILE = "ephemeral.json"
LOCK_FILE = "stack.lock"
EPHEMERAL_PREFIX = "faregate-stack-"
EPHEMERAL_HOME_PREFIX = "faregate-run-"


@dataclass
class KafkaState:
    """The broker of one stack; no pid means that it is not meant to run."""

    port: int | None = None
    controller_port: int | None = None
    cluster_id: str | None = None
    directory_id: str | None = None
    settings: dict[str, str] = field(default_factory=dict)
    pid: int | None = None
    started: str | None = None

    @property
    def alive(self) -> bool:
        """Whether the process that we started still runs."""
        return alive(self.pid, self.started)


@dataclass
class PostgresState:
    """The database server of one stack; `data` may lie outside of the home when we are root."""

    port: int | None = None
    password: str | None = None
    data: str | None = None
    settings: dict[str, str] = field(default_factory=dict)
    pid: int | None = None
    started: str | None = None

    @property
    def alive(self) -> bool:
        """Whether the process that we started still runs."""
        return alive(self.pid, self.started)

    @property
    def url(self) -> str:
        """The connection URL, with the password."""
        return f"postgresql://faregate:{self.password}@{HOST}:{self.port}/faregate"


@dataclass
class State:
    """Everything we remember about the stack in `home`; `data` is where its files are."""

    home: Path
    data: Path
    ephemeral: bool
    kafka: KafkaState = field(default_factory=KafkaState)
    postgres: PostgresState = field(default_factory=PostgresState)
    owner_pid: int | None = None
    owner_started: str | None = None
    _writing: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    @property
    def started(self) -> bool:
        """Whether a server was started here and not stopped since (it may have died)."""
        return self.kafka.pid is not None or self.postgres.pid is not None

    @property
    def alive(self) -> bool:
        """Whether one of the servers runs now."""
        return self.kafka.alive or self.postgres.alive

    @property
    def kafka_log(self) -> Path:
        """Where Kafka logs to."""
        return self.data / "kafka.log"

    @property
    def postgres_log(self) -> Path:
        """Where PostgreSQL logs to."""
        return self.data / "postgres.log"

    def save(self) -> None:
        """Write the state so that a crash leaves either the old or the new one."""
        content = {
            "home": str(self.home),
            "ephemeral": self.ephemeral,
            "kafka": dataclasses.asdict(self.kafka),
            "postgres": dataclasses.asdict(self.postgres),
            "owner_pid": self.owner_pid,
            "owner_started": self.owner_started,
        }
        with self._writing:
            write_private(self.data / STATE_FILE, content)


def write_private(path: Path, content: dict[str, Any]) -> None:
    """Replace the JSON file at `path` in one step, with access for its owner only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")  # mode 0600
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    Path(name).replace(path)


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StackError(
            f"The stack's state file {path} cannot be read: {error}.",
            f"Stop its servers by hand if any run, then delete {path}.",
        ) from error
    if not isinstance(content, dict):
        raise StackError(f"The stack's state file {path} is damaged.", f"Delete {path}.")
    return content


def _known(cls: type[Any], values: object) -> dict[str, Any]:
    """Keep the fields of `cls` that are in `values`, so that a newer file can be read."""
    names = {item.name for item in dataclasses.fields(cls)}
    items = values.items() if isinstance(values, dict) else ()
    return {key: value for key, value in items if key in names}


def load_data(data: Path) -> State | None:
    """Return the state kept in the data directory `data`; None if there is none.

    Raises StackError when the file is damaged.
    """
    content = _read_json(data / STATE_FILE)
    if content is None:
        return None
    return State(
        home=Path(str(content.get("home", data))),
        data=data,
        ephemeral=bool(content.get("ephemeral")),
        kafka=KafkaState(**_known(KafkaState, content.get("kafka"))),
        postgres=PostgresState(**_known(PostgresState, content.get("postgres"))),
        owner_pid=content.get("owner_pid"),
        owner_started=content.get("owner_started"),
    )


def load(home: Path) -> State | None:
    """Return the state of the stack in `home`: the ephemeral one if there is one, else the lasting.

    A pointer to a directory that is gone (a cleaned temporary directory) counts as none.
    Raises StackError when a file is damaged.
    """
    pointer = _read_json(home / POINTER_FILE)
    if pointer is not None:
        state = load_data(Path(str(pointer.get("data"))))
        if state is not None:
            state.home = home
            return state
    state = load_data(home)
    if state is not None:
        state.home = home  # the directory may have been moved
    return state


def create(home: Path, *, ephemeral: bool, owned: bool = False) -> State:
    """Make the directories of a new stack and return its (saved) state.

    `owned` notes our process as its owner: once that is gone, nobody needs the stack any more.
    """
    home.mkdir(parents=True, exist_ok=True)
    if not ephemeral:
        data = home
        (home / ".gitignore").write_text("*\n", encoding="utf-8")
    else:
        data = Path(tempfile.mkdtemp(prefix=EPHEMERAL_PREFIX))
        data.chmod(0o711)  # the database may run as another account, which must pass through
        write_private(home / POINTER_FILE, {"data": str(data)})
    state = State(home=home, data=data, ephemeral=ephemeral)
    if owned:
        state.owner_pid, state.owner_started = os.getpid(), identity(os.getpid())
    state.save()
    return state


def forget_pointer(home: Path) -> None:
    """Remove the pointer to an ephemeral stack."""
    with contextlib.suppress(FileNotFoundError):
        (home / POINTER_FILE).unlink()


def default_home() -> Path:
    """Return where embedded data lives.

    $FAREGATE_HOME if set, else `.faregate` in the working directory if that is a project (it has a
    pyproject.toml, a Makefile or already a `.faregate`), else the user's data directory.
    """
    if chosen := os.environ.get("FAREGATE_HOME"):
        return Path(chosen).expanduser().resolve()
    here = Path.cwd()
    if any((here / name).exists() for name in (".faregate", "pyproject.toml", "Makefile")):
        return here / ".faregate"
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "faregate"


def cache_dir() -> Path:
    """Return where downloads are kept: $XDG_CACHE_HOME or ~/.cache, then `faregate`."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "faregate"
