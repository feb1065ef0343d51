"""`faregate export`."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal, TextIO

import typer

from faregate.ledger.export import Wanted
from faregate.ledger.export import export as write
from faregate.ledger.scan import SQL
from faregate.ledger.store import Store
from faregate.runtime.cli.base import (
    BadUsage,
    JsonOption,
    Refused,
    counted,
    err,
    examples,
    ledger,
    new_app,
    period_argument,
    run_async,
    show,
    subject_argument,
)
from faregate.runtime.cli.progress import bar

app = new_app("Export.")

_ERASED = "erased:"


@app.command(
    epilog=examples(
        "faregate export --output entries.csv",
        "faregate export --account org:acme --from 2026-01-01 --to 2026-02-01 > january.csv",
    )
)
def export(
    account: Annotated[
        str | None, typer.Option(metavar="SUBJECT", help="Only of this account.")
    ] = None,
    start: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="Written then or later (RFC 3339).")
    ] = None,
    end: Annotated[
        str | None, typer.Option("--to", metavar="TIME", help="Written before then.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write there; stdout by default.")
    ] = None,
    format_: Annotated[Literal["csv"], typer.Option("--format", help="How to write.")] = "csv",
    allocations: Annotated[
        bool, typer.Option("--allocations", help="Also what orgs allocated: limits, no credits.")
    ] = False,
    *,
    as_json: JsonOption = False,
) -> None:
    """Write entries of the ledger to a CSV file: exact amounts in credits, times in UTC.

    Texts that a spreadsheet would run as a formula, or that begin with an apostrophe, get an
    apostrophe before them. With --json, the number of entries is printed and --output is needed.
    """
    del format_
    if as_json and output is None:
        raise BadUsage("--json prints what was done: say where the entries go with --output FILE")
    times = period_argument(start, end)
    if account is not None:
        checked_account(account)
    wanted = Wanted(None, *times, allocations)
    run_async(_export(account, wanted, output, as_json=as_json))


async def _export(
    account: str | None, wanted: Wanted, output: Path | None, *, as_json: bool
) -> None:
    async with ledger("export") as (store, _):
        if account is not None:
            number = await account_number(store, account)
            wanted = Wanted(number, wanted.start, wanted.end, wanted.allocations)
        with _opened(output) as file, bar("entries", quiet=as_json) as report:
            done = await write(store.pool, wanted, file, report if err.is_terminal else None)
    if output is not None:
        value = {"entries": done, "file": str(output)}
        text = f"{counted(done, 'entry', 'entries')} in {output}"
        show(value, as_json=as_json, render=lambda: err.print(text, markup=False))


def checked_account(text: str) -> str:
    """Check that `text` names an account, which may be an erased one."""
    return text if text.startswith(_ERASED) else subject_argument(text)


async def account_number(store: Store, account: str) -> int:
    """Give an account's number. Raises Refused `unknown_account`."""
    number = await store.names.find(account)
    if number is None and account.removeprefix(_ERASED).isdecimal():
        number = await store.pool.fetchval(SQL["erased_account"], int(account[len(_ERASED) :]))
    if number is None:
        fix = (
            "write org:<id>, user:<id> or erased:<n>, as it is in faregate export without --account"
        )
        raise Refused("unknown_account", f"there is no account {account}", fix)
    return number


@contextmanager
def _opened(output: Path | None) -> Iterator[TextIO]:
    """Open what to write to. A file appears under its name once it is whole."""
    if output is None:
        yield sys.stdout
        sys.stdout.flush()
        return
    try:
        number, name = tempfile.mkstemp(dir=output.parent, prefix=f".{output.name}.")
    except OSError as error:
        raise BadUsage(f"cannot write {output}: {error.strerror}") from error
    try:
        with open(number, "w", encoding="utf-8", newline="") as file:  # noqa: PTH123 - a descriptor
            yield file
        Path(name).chmod(0o666 & ~_mask())
        Path(name).replace(output)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _mask() -> int:
    """Give the process's umask, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
