"""What all commands share: output, exit codes, opening the ledger.

Exit codes (contract): 0; 1 the answer is no, or drift was found; 2 usage; 3 a server is missing.
With --json there is one JSON value on stdout, and everything else goes to stderr.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Annotated, Any

import asyncpg
import typer
from aiokafka.errors import KafkaError
from rich.console import Console

from faregate.events.amounts import parse_credits
from faregate.ledger.core import InvalidBook, Rejected
from faregate.ledger.database import TRANSIENT
from faregate.ledger.migrate import MigrationError
from faregate.ledger.store import Store, Unavailable
from faregate.runtime import logs, processes, servers
from faregate.runtime.servers import ServerMissing, Servers
from faregate.runtime.settings import Settings, SettingsError, load
from faregate.runtime.stack import StackError

NO, USAGE, MISSING = 1, 2, 3

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON value on stdout.")]

out = Console(soft_wrap=True, highlight=False)
err = Console(stderr=True, soft_wrap=True, highlight=False)


CLICK_EXCEPTION: type[Exception] = next(
    c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException"
)
"""What the option parser raises: typer carries its own copy of click and exports only children."""


class Refused(Exception):
    """The answer is no: exit code 1. `code` is short and stable, the message says what to do."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class BadUsage(Exception):
    """The command was called with something it cannot use: exit code 2."""


def show(value: Any, *, as_json: bool, render: Callable[[], None]) -> None:
    """Print `value` as JSON, or let `render` print it for people."""
    if as_json:
        sys.stdout.write(json.dumps(value, default=str) + "\n")
        sys.stdout.flush()
    else:
        render()


def amount_argument(text: str, *, allow_zero: bool = False) -> int:
    """Read an amount of credits from the command line as micro-credits."""
    try:
        number = json.loads(text)
        return parse_credits(number, allow_zero=allow_zero)
    except ValueError as error:
        raise BadUsage(f"{text!r} is not an amount of credits: {error}") from error


def subject_argument(text: str) -> str:
    """Check that `text` names an account."""
    kind, _, name = text.partition(":")
    if kind not in {"org", "user"} or not name:
        raise BadUsage(f"{text!r} is not an account: write org:<id> or user:<id>")
    return text


@asynccontextmanager
async def ledger(name: str = "cli") -> AsyncIterator[tuple[Store, Settings, Servers]]:
    """Open the ledger in force, for one command."""
    settings = load()
    found = servers.find(settings)
    async with processes.open_ledger(settings, found, name) as store:
        yield store, settings, found


def run_async(work: Coroutine[Any, Any, None]) -> None:
    """Run one command's coroutine."""
    asyncio.run(work)


_EXITS: tuple[tuple[tuple[type[BaseException], ...], int, str], ...] = (
    ((Refused, Rejected), NO, "refused"),
    ((MigrationError, InvalidBook), NO, "refused"),
    ((BadUsage, SettingsError), USAGE, "usage"),
    ((ServerMissing, StackError), MISSING, "server_missing"),
    ((Unavailable, KafkaError, *TRANSIENT), MISSING, "server_missing"),
    ((asyncpg.UndefinedTableError, asyncpg.InvalidCatalogNameError), MISSING, "not_migrated"),
    ((asyncpg.UndefinedObjectError,), MISSING, "not_migrated"),
)


def run_app(app: typer.Typer) -> int:
    """Run the command line; print a fault in one line (or as JSON) and give its exit code."""
    as_json = "--json" in sys.argv[1:]
    try:
        code = app(standalone_mode=False)
    except typer.Exit as done:
        return done.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except CLICK_EXCEPTION as error:
        if str(error):  # without a message the help has been printed already
            _complain(error, "usage", as_json=as_json)
        return USAGE
    except Exception as error:
        for kinds, exit_code, name in _EXITS:
            if isinstance(error, kinds):
                _complain(error, name, as_json=as_json)
                return exit_code
        raise
    return code if isinstance(code, int) else 0


def _complain(error: BaseException, name: str, *, as_json: bool) -> None:
    code = getattr(error, "code", name) if isinstance(error, Refused | Rejected) else name
    message = getattr(error, "message", None) or str(error) or repr(error)
    if name == "not_migrated":
        message = f"{message}. The database is not migrated: run `faregate migrate`"
    fix = getattr(error, "fix", None)
    if as_json:
        sys.stdout.write(json.dumps({"error": code, "message": message, "fix": fix}) + "\n")
    err.print(f"faregate: {message}", style="red", markup=False)
    if fix:
        err.print(f"  what to do: {fix}", markup=False)


def configure_logs(settings: Settings, process: str) -> None:
    """Set up logging for a long-running command."""
    logs.configure(settings, process=process)
