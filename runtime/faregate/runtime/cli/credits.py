"""`faregate credits`: what finance and operations do and read."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import uuid4

import typer
from rich.table import Table

from faregate.runtime import reading
from faregate.runtime.cli.base import (
    BadUsage,
    JsonOption,
    Refused,
    amount_argument,
    ledger,
    out,
    run_async,
    show,
    subject_argument,
)
from faregate.runtime.writing import grant, set_balance

credits_app = typer.Typer(help="Grant credits and read the ledger.", no_args_is_help=True)

Subject = Annotated[str, typer.Argument(help="org:<id> or user:<id>")]
Amount = Annotated[str, typer.Argument(help="Credits, at most 6 decimals.")]
KeyOption = Annotated[
    str | None,
    typer.Option("--idempotency-key", help="The same key and amount happen once."),
]


@credits_app.command("set")
def set_(
    subject: Subject, balance: Amount, key: KeyOption = None, *, as_json: JsonOption = False
) -> None:
    """Leave `balance` and no debt, as one adjustment; refused below what is held."""
    target = amount_argument(balance, allow_zero=True)
    run_async(_set(subject_argument(subject), target, key or str(uuid4()), as_json=as_json))


async def _set(subject: str, target: int, key: str, *, as_json: bool) -> None:
    async with ledger() as (store, _, _):
        await set_balance(store, subject, target, key)
        account = await reading.account(store, subject)
    show(account, as_json=as_json, render=lambda: _render_account(account))


@credits_app.command("grant")
def grant_(
    subject: Subject,
    amount: Amount,
    kind: Annotated[str, typer.Option(help="purchase or bonus")] = "purchase",
    key: KeyOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Add credits. Debt takes its part first."""
    if kind not in {"purchase", "bonus"}:
        raise BadUsage("--kind must be purchase or bonus")
    micro = amount_argument(amount)
    run_async(_grant(subject_argument(subject), kind, micro, key or str(uuid4()), as_json=as_json))


async def _grant(subject: str, kind: str, micro: int, key: str, *, as_json: bool) -> None:
    async with ledger() as (store, _, _):
        await grant(store, subject, "bonus" if kind == "bonus" else "purchase", micro, key)
        account = await reading.account(store, subject)
    show(account, as_json=as_json, render=lambda: _render_account(account))


@credits_app.command()
def balance(
    subject: Subject,
    at: Annotated[datetime | None, typer.Option(help="As of this time (RFC 3339).")] = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Show what an account has: now, or at a point in time."""
    run_async(_balance(subject_argument(subject), at, as_json=as_json))


async def _balance(subject: str, at: datetime | None, *, as_json: bool) -> None:
    async with ledger() as (store, _, _):
        found = await reading.account(store, subject, at)
    show(found, as_json=as_json, render=lambda: _render_account(found))


def _render_account(account: dict[str, Any]) -> None:
    table = Table(show_header=True, box=None, pad_edge=False)
    names = ("account", "balance", "held", "available", "debt", "tier")
    for name in names:
        table.add_column(name)
    table.add_row(*(str(account[name]) for name in names))
    out.print(table)


@credits_app.command()
def history(
    subject: Subject,
    limit: Annotated[int, typer.Option(min=1, max=10_000)] = 50,
    before: Annotated[int | None, typer.Option(help="Entries before this sequence.")] = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """List an account's entries, newest first."""
    run_async(_history(subject_argument(subject), limit, before, as_json=as_json))


async def _history(subject: str, limit: int, before: int | None, *, as_json: bool) -> None:
    async with ledger() as (store, _, _):
        entries = await reading.history(store, subject, limit, before)
    if entries is None:
        raise Refused("account_not_found", f"no account {subject}")
    show(entries, as_json=as_json, render=lambda: _render_history(entries))


def _render_history(entries: list[dict[str, Any]]) -> None:
    table = Table(box=None, pad_edge=False)
    for name in ("seq", "at", "kind", "amount", "held", "debt", "balance", "what"):
        table.add_column(name, justify="right" if name in {"amount", "balance"} else "left")
    for e in entries:
        what = e.get("usage_id") or e.get("pipeline_id") or e.get("reason") or ""
        table.add_row(
            str(e["sequence"]),
            str(e["at"])[:19],
            e["kind"],
            str(e["amount"]),
            str(e["held_delta"]),
            str(e["debt_delta"]),
            str(e["balance"]),
            what,
        )
    out.print(table)
