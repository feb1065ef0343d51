"""`faregate credits`: what finance and operations do and read."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

import typer

from faregate.ledger import reading
from faregate.ledger.acts import grant, set_balance
from faregate.ledger.names import meant_subject
from faregate.runtime.cli.acting import KeyOption, me, new_key
from faregate.runtime.cli.base import (
    BadUsage,
    JsonOption,
    amount_argument,
    err,
    examples,
    ledger,
    meant,
    moment,
    new_app,
    out,
    over,
    run_async,
    show,
    subject_argument,
    table,
    time_argument,
)
from faregate.runtime.wording import plain

app = new_app(
    "Grant credits and read the ledger.",
    "faregate credits set org:acme 10000",
    "faregate credits balance org:acme",
)

Subject = Annotated[str, typer.Argument(metavar="SUBJECT", help="org:<id> or user:<id>")]
_CREDITS = "Credits, at most 6 decimals."
Amount = Annotated[str, typer.Argument(metavar="AMOUNT", help=_CREDITS)]
Target = Annotated[str, typer.Argument(metavar="BALANCE", help=_CREDITS)]


KINDS = ("purchase", "bonus")

NEGATIVE = {"ignore_unknown_options": True}
"""So that -5 is read as an amount, and refused as one."""


@app.command(
    "set", context_settings=NEGATIVE, epilog=examples("faregate credits set org:acme 10000")
)
def set_(
    subject: Subject, balance: Target, key: KeyOption = None, *, as_json: JsonOption = False
) -> None:
    """Leave BALANCE and no debt, as one adjustment; refused below what is held."""
    target = amount_argument(balance, allow_zero=True)
    run_async(_set(subject_argument(subject), target, new_key(key), as_json=as_json))


async def _set(subject: str, target: int, key: str, *, as_json: bool) -> None:
    async with ledger(makes=[subject]) as (store, _):
        await set_balance(store, subject, target, actor=me(), key=key)
        account = await reading.account(store, subject)
    show(account, as_json=as_json, render=lambda: _render_account(account))


@app.command(
    "grant",
    context_settings=NEGATIVE,
    epilog=examples(
        "faregate credits grant user:ada 50 --kind bonus",
        "faregate credits grant org:acme 500 --expires-in-days 90 --priority 10 --notes 'Q3 pilot'",
    ),
)
def grant_(
    subject: Subject,
    amount: Amount,
    kind: Annotated[str, typer.Option(help="purchase or bonus")] = "purchase",
    priority: Annotated[int, typer.Option(min=0, help="Lower numbers burn first.")] = 100,
    expires_at: Annotated[
        str | None, typer.Option(help="When it expires (RFC 3339, or a date).")
    ] = None,
    expires_in_days: Annotated[
        float | None, typer.Option(min=0, max=36_500, help="Or after how many days.")
    ] = None,
    notes: Annotated[str | None, typer.Option(help="For people; can be erased.")] = None,
    key: KeyOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Add credits. Debt takes its part first."""
    if kind not in KINDS:
        raise BadUsage(f"--kind must be purchase or bonus, not {kind!r}{meant(kind, KINDS)}")
    if expires_at is not None and expires_in_days is not None:
        raise BadUsage("say either --expires-at or --expires-in-days")
    terms: dict[str, Any] = {
        "priority": priority,
        "expires_at": time_argument(expires_at, "--expires-at"),
        "expires_in": None if expires_in_days is None else timedelta(days=expires_in_days),
        "notes": notes,
    }
    micro = amount_argument(amount)
    run_async(_grant(subject_argument(subject), kind, micro, terms, new_key(key), as_json=as_json))


async def _grant(
    subject: str, kind: str, micro: int, terms: dict[str, Any], key: str, *, as_json: bool
) -> None:
    async with ledger(makes=[subject]) as (store, _):
        real: Literal["purchase", "bonus"] = "bonus" if kind == "bonus" else "purchase"
        by = me()
        await grant(store, subject, real, micro, actor=by, allocated_by=by, key=key, **terms)
        account = await reading.account(store, subject)
    show(account, as_json=as_json, render=lambda: _render_account(account))


@app.command(
    epilog=examples(
        "faregate credits balance org:acme",
        "faregate credits balance org:acme --at 2025-06-30T23:59:59Z --json",
    )
)
def balance(
    subject: Subject,
    at: Annotated[str | None, typer.Option(help="As of this time (RFC 3339, or a date).")] = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Show what an account has: now, or at a point in time."""
    when = time_argument(at, "--at")
    run_async(_balance(subject_argument(subject), when, as_json=as_json))


async def _balance(subject: str, at: datetime | None, *, as_json: bool) -> None:
    async with ledger() as (store, _):
        found = await reading.account(store, subject, await over(store, at))
        entries = await reading.history(store, subject, 1)
    show(found, as_json=as_json, render=lambda: _render_account(found))
    if not entries:
        err.print(f"{subject} has no entries: {_nobody(subject)}", markup=False)


def _nobody(subject: str) -> str:
    instead = meant_subject(subject)
    hint = f"; did you mean {instead}?" if instead else ""
    return f"nobody has granted or used its credits{hint}"


def _render_account(account: dict[str, Any]) -> None:
    names = ("account", "balance", "held", "available", "debt", "tier")
    shown = table(names, right=names[1:5])
    shown.add_row(account["account"], *(plain(account[n]) for n in names[1:5]), account["tier"])
    out.print(shown)


@app.command(
    epilog=examples(
        "faregate credits history org:acme",
        "faregate credits history org:acme --limit 20 --before 100 --json",
    )
)
def history(
    subject: Subject,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many.")] = 50,
    before: Annotated[int | None, typer.Option(help="Entries before this sequence.")] = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """List an account's entries, newest first."""
    run_async(_history(subject_argument(subject), limit, before, as_json=as_json))


async def _history(subject: str, limit: int, before: int | None, *, as_json: bool) -> None:
    async with ledger() as (store, _):
        entries = await reading.history(store, subject, limit, before)
    show(entries, as_json=as_json, render=lambda: _render_history(subject, entries, before))


def _render_history(subject: str, entries: list[dict[str, Any]], before: int | None) -> None:
    if not entries:
        why = f" before sequence {before}" if before else f": {_nobody(subject)}"
        out.print(f"{subject} has no entries{why}", markup=False)
        return
    numbers = ("seq", "amount", "held", "debt", "balance")
    shown = table(("seq", "at", "kind", "amount", "held", "debt", "balance", "what"), right=numbers)
    for e in entries:
        shown.add_row(
            str(e["sequence"]),
            moment(e["at"]),
            e["kind"],
            *(change(e[name]) for name in ("amount", "held_delta", "debt_delta")),
            plain(e["balance"]),
            _what(e),
        )
    out.print(shown)


def _what(entry: dict[str, Any]) -> str:
    """Say what an entry was for: a phase, the usage or pipeline it came from, and why."""
    of = entry.get("usage_id") or entry.get("pipeline_id")
    return " ".join(str(v) for v in (entry.get("phase"), of, entry.get("reason")) if v)


def change(value: float) -> str:
    """Write what an amount has become more or less by."""
    return f"{'+' if value > 0 else ''}{plain(value)}"
