"""Exit codes: what a fault means to a script, and how it is said to people.

Exit codes (contract): 0; 1 the answer is no, or drift was found; 2 usage; 3 a server is missing.
This module is imported for every command, so it knows drivers only once something has failed.
"""

from __future__ import annotations

import json
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any

import typer

NO, USAGE, MISSING, INTERRUPTED = 1, 2, 3, 130

_DOCTOR = "find out with: faregate doctor"
_MIGRATE = "run: faregate migrate"
_CREATE = "create that database, or correct FAREGATE_DATABASE; then run: faregate migrate"
_REJECTED = {
    "below_held": "set a balance of at least what is held: faregate credits balance SUBJECT",
    "amount_out_of_range": "give an amount that keeps the balance below 1,000,000,000 credits",
    "idempotency_conflict": "give another --idempotency-key, or none: this one was used before",
    "backdated": "say --backdate if that is meant, or leave --effective-from out: from now on",
    "conflict": "repeat the command",
    "nothing_to_do": "nothing: it is as you want it",
    "live_holds": "wait until they are done, or say --force: their late usage is refused then",
    "debt_outstanding": "settle it (faregate credits set SUBJECT 0), or say --force: nobody owes it then",
    "not_announced": "run the relay and try again, or say --force: announced without their ids then",
    "rebuild_running": "wait until the other one is done",
    "unknown_tier": "see what there is with: faregate prices show",
    "unknown_milestone": "name it in FAREGATE_WELCOME_MILESTONES, for every process",
    "not_provisioned": "nothing: there is something to release once the welcome grant is there",
    "not_a_member": "see who is with: faregate orgs members ORG",
    "expires_in_the_past": "give a time to come",
    "unknown_charge": "find it with: faregate credits history SUBJECT --json",
    "ambiguous_usage": "say which with --source; faregate explain USAGE_ID shows them all",
    "not_charged": "name a usage entry: faregate credits history SUBJECT --json",
    "nothing_to_revoke": "see what is left of each: faregate credits grants SUBJECT",
    "nothing_to_refund": "nothing: it cost nothing",
    "invalid_code": "give a short code, or leave it out",
    "increment_differs": "change it with: faregate prices increment VALUE",
}
"""What to do about a command that the ledger refuses, by the stable code of the refusal."""

CLICK_EXCEPTION: type[Exception] = next(
    c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException"
)
"""What the option parser raises: typer carries its own copy of click and exports only children."""

Kinds = tuple[type[BaseException], ...]


class Refused(Exception):
    """The answer is no: exit code 1. `code` is short and stable, `fix` says what to do."""

    def __init__(self, code: str, message: str, fix: str) -> None:
        super().__init__(message)
        self.code = code
        self.fix = fix


class BadUsage(Exception):
    """The command was called with something it cannot use: exit code 2.

    Without a `fix` it is to look at the command's help.
    """

    def __init__(self, message: str, fix: str | None = None) -> None:
        super().__init__(message)
        self.fix = fix


def end_on_sigterm() -> None:
    """From now on SIGTERM does what Ctrl-C does: everything is cleaned up on the way out.

    Also where Ctrl-C itself is ignored, as it is by what a script starts with `&`.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # asyncio ends its tasks in order only where it finds Ctrl-C's own handler when it starts.
        # That is put there, and no Ctrl-C gets through to it.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(_: int, frame: FrameType | None) -> None:
    handler = signal.getsignal(signal.SIGINT)
    if not callable(handler):
        raise KeyboardInterrupt
    handler(signal.SIGINT, frame)


def run_app(app: typer.Typer, arguments: Sequence[str] | None = None) -> int:
    """Run the command line; print a fault in one line (or as JSON) and give its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in words
    try:
        ended = app(words, prog_name="faregate", standalone_mode=False)
    except typer.Exit as done:
        return done.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except CLICK_EXCEPTION as error:
        return _misused(error, as_json=as_json)
    except Exception as error:
        said = _said(error, words)
        if said is None:
            raise
        exit_code, code, message, fix = said
        _complain(code, message, fix, as_json=as_json)
        return exit_code
    return ended if isinstance(ended, int) else 0


def _misused(error: Any, *, as_json: bool) -> int:
    """Say what the option parser refused; without a message it has printed the help already."""
    if str(error) or getattr(error, "param", None) is not None:
        context = getattr(error, "ctx", None)
        fix = f"{context.command_path} --help" if context else "faregate --help"
        message = " ".join(error.format_message().replace("Value error, ", "").split())
        # Where -5 may be an amount, an option that does not exist looks like one more argument.
        message = re.sub(r"^Got unexpected .*\((--[^\s)=]+).*", r"No such option: \1", message)
        _complain("usage", message, fix, as_json=as_json)
    return USAGE


def _help_of(words: Sequence[str]) -> str:
    """Give the command that prints the help of the one in `words`."""
    from faregate.runtime.cli.root import PLACES

    depth = 2 if words and words[0] in PLACES and PLACES[words[0]].group else 1
    return " ".join(["faregate", *words[:depth], "--help"])


def _said(error: Exception, words: Sequence[str]) -> tuple[int, str, str, str] | None:
    """Give what can be said in one line: exit code, stable code, message, what to do."""
    for kinds, exit_code, name, else_ in _known(words):
        if isinstance(error, kinds):
            code = str(getattr(error, "code", name))
            message = str(getattr(error, "message", None) or error) or type(error).__name__
            fix = getattr(error, "fix", None) or _REJECTED.get(code) or else_
            return exit_code, code, message, fix
    return _away(error)


def _known(words: Sequence[str]) -> Iterator[tuple[Kinds, int, str, str]]:
    """Give types of exceptions, exit code, name, and what to do where the error does not say."""
    yield (Refused,), NO, "refused", _help_of(words)
    yield (BadUsage,), USAGE, "usage", _help_of(words)
    import asyncpg

    from faregate.ledger.core import InvalidBook, Rejected
    from faregate.ledger.migrate import MigrationError
    from faregate.ledger.store import BadValue
    from faregate.runtime.servers import ServerMissing
    from faregate.runtime.settings import SettingsError
    from faregate.runtime.stack import StackError

    yield (SettingsError,), USAGE, "usage", _help_of(words)
    yield (Rejected, BadValue), NO, "refused", _help_of(words)
    yield (MigrationError, InvalidBook), NO, "refused", _DOCTOR
    yield (ServerMissing, StackError), MISSING, "server_missing", _DOCTOR
    yield (asyncpg.InvalidCatalogNameError,), MISSING, "not_migrated", _CREATE
    yield (
        (
            asyncpg.UndefinedTableError,
            asyncpg.UndefinedObjectError,
            asyncpg.InvalidParameterValueError,  # the application's role does not exist
        ),
        MISSING,
        "not_migrated",
        _MIGRATE,
    )


def _away(error: Exception) -> tuple[int, str, str, str] | None:
    """Say which server does not answer, where it is named, and what to do."""
    from aiokafka.errors import KafkaError

    from faregate.consumers.checkpoints import CheckpointsUnreadable
    from faregate.events import PublishFailed, TopicsFailed
    from faregate.ledger.database import TRANSIENT
    from faregate.runtime import away

    of_kafka = (KafkaError, TopicsFailed, PublishFailed, CheckpointsUnreadable)
    if isinstance(error, (*of_kafka, *TRANSIENT)) and (said := away.told(error)) is not None:
        return MISSING, "server_missing", *said
    if isinstance(error, OSError):  # of this machine, such as a disk that is full
        return NO, "failed", str(error) or type(error).__name__, _DOCTOR
    return None


def _complain(code: str, message: str, fix: str, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps({"error": code, "message": message, "fix": fix}) + "\n")
        sys.stdout.flush()
    colour = ("\033[31m", "\033[0m") if sys.stderr.isatty() else ("", "")
    sys.stderr.write(f"{colour[0]}faregate: {message}{colour[1]}\n  what to do: {fix}\n")
