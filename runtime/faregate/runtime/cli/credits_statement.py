"""`faregate credits statement`: what there was, what came and went, and what there is."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import typer

from faregate.events.amounts import format_credits, to_credits
from faregate.ledger.reading import current
from faregate.ledger.statement import Figures, Statement
from faregate.ledger.statement import statement as state
from faregate.runtime.cli.base import (
    NO,
    JsonOption,
    counted,
    err,
    examples,
    ledger,
    moment,
    out,
    over,
    period_argument,
    run_async,
    show,
    table,
)
from faregate.runtime.cli.credits import change
from faregate.runtime.cli.credits_plans import app
from faregate.runtime.cli.export import account_number, checked_account
from faregate.runtime.wording import plain

Value = dict[str, Any]
_FIGURES = ("balance", "held", "debt")


@app.command(
    epilog=examples(
        "faregate credits statement",
        "faregate credits statement --from 2026-01-01 --to 2026-02-01",
        "faregate credits statement org:acme --json",
    )
)
def statement(
    subject: Annotated[
        str | None,
        typer.Argument(metavar="[SUBJECT]", help="org:<id>, user:<id>; all accounts by default."),
    ] = None,
    start: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="From then on (RFC 3339).")
    ] = None,
    end: Annotated[str | None, typer.Option("--to", metavar="TIME", help="Before then.")] = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Show what there was, all that came and went by kind, and what there is.

    Of one account, or of all that have credits. It is added up from every entry: what there was and
    what happened make what there is, and without --to that is what the accounts themselves say, or
    the exit code is 1.
    """
    times = period_argument(start, end)
    account = None if subject is None else checked_account(subject)
    run_async(_statement(account, *times, as_json=as_json))


async def _statement(
    subject: str | None, start: datetime | None, end: datetime | None, *, as_json: bool
) -> None:
    async with ledger("statement") as (store, _):
        await over(store, start, "--from")
        await over(store, end, "--to")
        number = None if subject is None else await account_number(store, subject)
        if subject is not None and end is None and await store.names.find(subject) is not None:
            await current(store, subject)
        found = await state(store.pool, number, start, end)
    value = {
        "account": subject,
        "accounts": found.accounts,
        "from": start and start.isoformat(),
        "to": end and end.isoformat(),
        "opening": _credits(found.opening),
        "changes": [
            {"kind": one.kind, "reason": one.reason, "entries": one.entries, **_credits(one.change)}
            for one in found.lines
        ],
        "closing": _credits(found.closing),
        "adds_up": found.adds_up,
    }
    show(value, as_json=as_json, render=lambda: _render(value))
    if found.adds_up is False:
        _complain(found)
        raise typer.Exit(NO)


def _credits(figures: Figures) -> dict[str, int | float]:
    return {name: to_credits(getattr(figures, name)) for name in _FIGURES}


def _render(value: Value) -> None:
    whose = value["account"] or f"all {counted(value['accounts'], 'account')}"
    since = f" from {moment(value['from'])}" if value["from"] else ""
    until = f" until {moment(value['to'])}" if value["to"] else ""
    out.print(f"{whose}{since}{until}", markup=False)
    shown = table(("what", "entries", *_FIGURES), right=("entries", *_FIGURES))
    shown.add_row("at the beginning", "", *(plain(value["opening"][n]) for n in _FIGURES))
    for line in value["changes"]:
        what = " ".join(filter(None, (line["kind"], line["reason"])))
        changes = (change(line[n]) if line[n] else "" for n in _FIGURES)
        shown.add_row(what, plain(line["entries"]), *changes)
    shown.add_row("at the end", "", *(plain(value["closing"][n]) for n in _FIGURES))
    out.print(shown)


def _complain(found: Statement) -> None:
    said, made = found.now or Figures(), found.closing
    for name in _FIGURES:
        one, other = getattr(said, name), getattr(made, name)
        if one != other:
            text = (
                f"the accounts say {name} {format_credits(one)}, "
                f"their entries come to {format_credits(other)}"
            )
            err.print(f"{text}: run faregate verify", markup=False)
