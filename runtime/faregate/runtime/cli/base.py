"""What all commands share: output, arguments, opening the ledger.

With --json there is one JSON value on stdout, and everything else goes to stderr.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import Console

from faregate.events.amounts import parse_credits
from faregate.events.fields import ID_RULE, is_id, parse_time
from faregate.ledger.database import make_pool
from faregate.ledger.names import meant_subject
from faregate.ledger.queries import SQL
from faregate.ledger.store import Store, open_store
from faregate.runtime import servers
from faregate.runtime.cli.exits import MISSING, NO, USAGE, BadUsage, Refused
from faregate.runtime.cli.tables import table
from faregate.runtime.settings import Settings, load
from faregate.runtime.wording import counted, meant

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON value on stdout.")]

_PIPED_COLUMNS = 160
_KINDS = ("org", "user")

out = Console(
    soft_wrap=True, highlight=False, width=None if sys.stdout.isatty() else _PIPED_COLUMNS
)
err = Console(stderr=True, soft_wrap=True, highlight=False)


def new_app(help_text: str, *lines: str) -> typer.Typer:
    """Make the typer application of a module of commands; `lines` are examples of a group."""
    epilog = examples(*lines) if lines else None
    return typer.Typer(help=help_text, no_args_is_help=True, epilog=epilog)


def examples(*lines: str) -> str:
    """Write the end of a command's help: what somebody would type."""
    return "\n".join(["Examples:", *(f"  {line}" for line in lines)])


def show(value: Any, *, as_json: bool, render: Callable[[], None]) -> None:
    """Print `value` as JSON, or let `render` print it for people."""
    if as_json:
        sys.stdout.write(json.dumps(value, default=str) + "\n")
        sys.stdout.flush()
    else:
        render()


def moment(value: datetime | str | None) -> str:
    """Write a time for people: in UTC, to the second."""
    if value is None:
        return ""
    at = datetime.fromisoformat(value) if isinstance(value, str) else value
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def amount_argument(text: str, *, allow_zero: bool = False) -> int:
    """Read an amount of credits from the command line as micro-credits."""
    try:
        number = json.loads(text)
    except ValueError as error:
        message = "write a number such as 10000 or 0.25"
        raise BadUsage(f"{text!r} is not an amount of credits: {message}") from error
    try:
        return parse_credits(number, allow_zero=allow_zero)
    except ValueError as error:
        raise BadUsage(f"{text!r} is not an amount of credits: {error}") from error


def subject_argument(text: str) -> str:
    """Check that `text` names an account, of any id: what is in the ledger must be in reach."""
    kind, _, name = text.partition(":")
    if kind not in _KINDS or not name:
        raise BadUsage(f"{text!r} is not an account: write org:<id> or user:<id>")
    try:
        text.encode()
    except UnicodeEncodeError as error:  # of an argument whose bytes are no text
        raise BadUsage(f"{text!r} is not an account: it is not UTF-8") from error
    return text


async def _require_meant(store: Store, subject: str) -> None:
    """Refuse to make an account whose name has its kind twice; one that events made is there."""
    name = meant_subject(subject)
    if name is not None and await store.names.find(subject) is None:
        raise BadUsage(f"{subject!r} names a kind of account twice: did you mean {name}?")


def time_argument(text: str | None, option: str) -> datetime | None:
    """Read a time from the command line: RFC 3339, or a date for its first moment in UTC."""
    if text is None:
        return None
    try:
        return parse_time(f"{text}T00:00:00Z" if len(text) == len("2025-01-31") else text)
    except ValueError:
        example = "2025-01-31T12:00:00Z (or 2025-01-31)"
        raise BadUsage(f"{option} {text!r} is not a time: write {example}") from None


def period_argument(start: str | None, end: str | None) -> tuple[datetime | None, datetime | None]:
    """Read the times of --from and --to; a period that nothing can be in is refused."""
    since, until = time_argument(start, "--from"), time_argument(end, "--to")
    if since and until and until <= since:
        fix = "swap them, or give a --to that is later: --from is in the period, --to is not"
        raise BadUsage(f"--to {end} is not after --from {start}", fix)
    return since, until


async def over(store: Store, at: datetime | None, option: str = "--at") -> datetime | None:
    """Give the time of an option back, unless it is still to come by the database's clock."""
    if at is not None and at > await store.pool.fetchval(SQL["now"]):
        said = f"{option} {at.isoformat()}"
        fix = f"give a time that is over, or leave {option} out for what is there now"
        raise BadUsage(f"{said} is still to come: nobody knows what will be there then", fix)
    return at


@asynccontextmanager
async def ledger(
    name: str = "cli", *, makes: Sequence[str] = ()
) -> AsyncIterator[tuple[Store, Settings]]:
    """Open the ledger in force for one command, which may make the accounts `makes`.

    Kafka is not needed. Raises BadUsage where one of `makes` cannot be, or was probably meant
    otherwise.
    """
    for subject in makes:
        if not is_id(subject.partition(":")[2]):
            raise BadUsage(f"{subject!r} is not an account: an id has {ID_RULE}")
    settings = load()
    pool = await make_pool(servers.database(settings), name=name)
    try:
        every = settings.checkpoint_entries
        store = await open_store(pool, settings.rules(), checkpoint_every=every)
        for subject in makes:
            await _require_meant(store, subject)
        yield store, settings
    finally:
        pool.terminate()


def run_async(work: Coroutine[Any, Any, None]) -> None:
    """Run one command's coroutine."""
    # What the client logs while a broker is away; the command's own error says it once.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    try:
        asyncio.run(work)
    except BrokenPipeError:  # whoever read our output has seen enough, as in `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


__all__ = [
    "MISSING",
    "NO",
    "USAGE",
    "BadUsage",
    "JsonOption",
    "Refused",
    "amount_argument",
    "counted",
    "err",
    "examples",
    "ledger",
    "meant",
    "moment",
    "new_app",
    "out",
    "over",
    "period_argument",
    "run_async",
    "show",
    "subject_argument",
    "table",
    "time_argument",
]
