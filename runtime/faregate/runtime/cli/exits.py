"""Exit codes: what a fault means to a script, and how it is said to people.

Exit codes (contract): 0; 1 the answer is no, or drift was found; 2 usage; 3 a server is missing.
This module is imported for every command, so it knows drivers only once something has failed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import typer

NO, USAGE, MISSING, INTERRUPTED = 1, 2, 3, 130

_DOCTOR = "find out with: faregate doctor"
_MIGRATE = "run: faregate migrate"

CLICK_EXCEPTION: type[Exception] = next(
    c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException"
)
"""What the option parser raises: typer carries its own copy of click and exports only children."""

Kinds = tuple[type[BaseException], ...]


class Refused(Exception):
    """The answer is no: exit code 1. `code` is short and stable, `fix` says what to do."""

    def __init__(self, code: str, message: str, fix: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.fix = fix


class BadUsage(Exception):
    """The command was called with something it cannot use: exit code 2."""


def run_app(app: typer.Typer, arguments: Sequence[str] | None = None) -> int:
    """Run the command line; print a fault in one line (or as JSON) and give its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in words
    try:
        code = app(words, standalone_mode=False)
    except typer.Exit as done:
        return done.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except CLICK_EXCEPTION as error:
        return _misused(error, as_json=as_json)
    except Exception as error:
        for kinds, exit_code, name, fix in _known():
            if isinstance(error, kinds):
                _complain(error, name, fix, as_json=as_json)
                return exit_code
        raise
    return code if isinstance(code, int) else 0


def _misused(error: Any, *, as_json: bool) -> int:
    """Say what the option parser refused; without a message it has printed the help already."""
    if str(error) or getattr(error, "param", None) is not None:
        context = getattr(error, "ctx", None)
        fix = f"{context.command_path} --help" if context else "faregate --help"
        _complain(BadUsage(error.format_message()), "usage", fix, as_json=as_json)
    return USAGE


def _known() -> Iterator[tuple[Kinds, int, str, str | None]]:
    """Give what can be said in one line: exception types, exit code, name, what to do."""
    yield (Refused,), NO, "refused", None
    yield (BadUsage,), USAGE, "usage", None
    import asyncpg
    from aiokafka.errors import KafkaError

    from faregate.consumers.checkpoints import CheckpointsUnreadable
    from faregate.events import PublishFailed, TopicsFailed
    from faregate.ledger.core import InvalidBook, Rejected
    from faregate.ledger.database import TRANSIENT
    from faregate.ledger.migrate import MigrationError
    from faregate.ledger.store import BadValue, Unavailable
    from faregate.runtime.servers import ServerMissing
    from faregate.runtime.settings import SettingsError
    from faregate.runtime.stack import StackError

    yield (Rejected, MigrationError, InvalidBook, BadValue), NO, "refused", None
    yield (SettingsError,), USAGE, "usage", "see what is in force with: faregate settings"
    yield (ServerMissing, StackError), MISSING, "server_missing", None
    yield (TopicsFailed, PublishFailed, CheckpointsUnreadable), MISSING, "server_missing", _DOCTOR
    yield (Unavailable, KafkaError, *TRANSIENT), MISSING, "server_missing", _DOCTOR
    yield (
        (
            asyncpg.UndefinedTableError,
            asyncpg.InvalidCatalogNameError,
            asyncpg.UndefinedObjectError,
            asyncpg.InvalidParameterValueError,  # the application's role does not exist
        ),
        MISSING,
        "not_migrated",
        _MIGRATE,
    )


def _complain(error: BaseException, name: str, fix: str | None, *, as_json: bool) -> None:
    code = str(getattr(error, "code", name))
    message = str(getattr(error, "message", None) or error) or repr(error)
    fix = getattr(error, "fix", None) or fix
    if fix:
        message = message.removesuffix(fix).rstrip()
    if as_json:
        sys.stdout.write(json.dumps({"error": code, "message": message, "fix": fix}) + "\n")
        sys.stdout.flush()
    colour = ("\033[31m", "\033[0m") if sys.stderr.isatty() else ("", "")
    sys.stderr.write(f"{colour[0]}faregate: {message}{colour[1]}\n")
    if fix:
        sys.stderr.write(f"  what to do: {fix}\n")
