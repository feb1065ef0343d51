"""`faregate prices simulate`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from faregate.events.amounts import format_credits, to_credits
from faregate.ledger.core import InvalidBook
from faregate.ledger.core.prices import parse_increment
from faregate.ledger.core.prices_document import MOST_MARGIN
from faregate.ledger.core.prices_values import parse_positive
from faregate.ledger.simulate import Change, Denial, Payer, Simulation
from faregate.ledger.simulate import simulate as price_again
from faregate.runtime.cli.base import (
    BadUsage,
    JsonOption,
    counted,
    err,
    examples,
    ledger,
    moment,
    out,
    period_argument,
    run_async,
    show,
    table,
)
from faregate.runtime.cli.progress import bar

ReadBook = Callable[[Path], Mapping[str, Any]]

_PAYERS_SHOWN = 50
_DENIED_SHOWN = 20


def register(app: typer.Typer, read_book: ReadBook) -> None:
    """Add the command to the group `prices`; `read_book` reads and checks a price file."""

    @app.command(
        epilog=examples(
            "faregate prices simulate --increment 0.01",
            "faregate prices show --json > next.json",
            "faregate prices simulate --book next.json --from 2026-01-01 --to 2026-02-01",
        )
    )
    def simulate(
        book: Annotated[
            Path | None, typer.Option(metavar="FILE", help="Another price book (.toml or .json).")
        ] = None,
        increment: Annotated[
            str | None, typer.Option(help="Another increment for vendor prices: 0.01, 0.1 or 1.")
        ] = None,
        margin: Annotated[str | None, typer.Option(help="Another margin on vendor prices.")] = None,
        start: Annotated[
            str | None, typer.Option("--from", metavar="TIME", help="Charged then or later.")
        ] = None,
        end: Annotated[
            str | None, typer.Option("--to", metavar="TIME", help="Charged before then.")
        ] = None,
        *,
        as_json: JsonOption = False,
    ) -> None:
        """Price the usage of a period again: what each payer would have paid, who would be denied.

        A book prices everything anew; an increment or a margin changes the version that priced
        each event, and a model that has a margin of its own keeps it. Nothing is written.
        """
        if book is None and increment is None and margin is None:
            raise BadUsage("say what is to be other: --book FILE, --increment or --margin")
        change = Change(
            None if book is None else read_book(book), _increment(increment), _margin(margin)
        )
        times = period_argument(start, end)
        run_async(_simulate(change, *times, as_json=as_json))


def _number(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _increment(text: str | None) -> int | None:
    try:
        return None if text is None else parse_increment(_number(text))
    except InvalidBook as error:
        raise BadUsage(f"--increment {text}: {error}") from error


def _margin(text: str | None) -> float | None:
    if text is None:
        return None
    number = _number(text)
    try:
        parse_positive("--margin", number, MOST_MARGIN)
    except InvalidBook as error:
        raise BadUsage(f"{error}: write a number such as 1.5") from error
    return float(str(number))


async def _simulate(
    change: Change, start: datetime | None, end: datetime | None, *, as_json: bool
) -> None:
    async with ledger("simulate") as (store, _):
        with bar("events", quiet=as_json) as report:
            shown = report if err.is_terminal and not as_json else None
            found = await price_again(store.pool, change, start, end, shown)
    value = _value(found, start, end)
    show(value, as_json=as_json, render=lambda: _render(found))


def _sums(payer: Payer) -> dict[str, Any]:
    return {
        "events": payer.events,
        "charged": to_credits(payer.charged),
        "would_be": to_credits(payer.would_be),
        "difference": to_credits(payer.would_be - payer.charged),
    }


def _by_difference(found: Simulation) -> list[tuple[str, Payer]]:
    """List payers, the greatest difference first."""
    named = [(found.names.get(number, f"#{number}"), p) for number, p in found.payers.items()]
    return sorted(named, key=lambda item: (-abs(item[1].would_be - item[1].charged), item[0]))


def _value(found: Simulation, start: datetime | None, end: datetime | None) -> dict[str, Any]:
    return {
        "from": start.isoformat() if start else None,
        "to": end.isoformat() if end else None,
        **_sums(found.total()),
        "payers": [{"payer": name, **_sums(payer)} for name, payer in _by_difference(found)],
        "unpriced": [
            {
                "phase": phase,
                "provider": provider,
                "model": model,
                "events": kind.events,
                "charged": to_credits(kind.charged),
            }
            for (phase, provider, model), kind in found.unpriced.items()
        ],
        "as_said": found.as_said,
        "requests": found.requests,
        "denied": [_denial(found, denial) for denial in found.denied],
        "denied_total": found.denied_total,
    }


def _denial(found: Simulation, denial: Denial) -> dict[str, Any]:
    return {
        "at": denial.at.isoformat(),
        "pipeline_id": denial.pipeline_id,
        "user": found.names.get(denial.user_id),
        "org": found.names.get(denial.org_id) if denial.org_id else None,
        "reason": denial.reason,
        "required_credits": None if denial.required is None else to_credits(denial.required),
        "available_credits": to_credits(denial.had),
    }


def _render(found: Simulation) -> None:
    numbers = ("events", "charged", "would be", "difference")
    rows = table(("payer", *numbers), right=numbers)
    payers = _by_difference(found)
    for name, payer in payers[:_PAYERS_SHOWN]:
        rows.add_row(name, *_cells(payer))
    rows.add_row("all", *_cells(found.total()))
    out.print(rows)
    if len(payers) > _PAYERS_SHOWN:
        out.print(f"({counted(len(payers) - _PAYERS_SHOWN, 'payer')} more: see --json)")
    for (phase, provider, model), kind in found.unpriced.items():
        what = phase or "/".join(filter(None, (provider, model)))
        out.print(
            f"Unpriced: {counted(kind.events, 'event')} of {what}, charged "
            f"{format_credits(kind.charged)}; not in the sums.",
            markup=False,
        )
    if found.as_said:
        said = counted(found.as_said, "charge was", "charges were")
        out.print(f"{said} for an amount that the caller said: unchanged.")
    out.print(
        f"{found.denied_total:,} of {counted(found.requests, 'request')} that were let in would "
        "have been denied, by what their payers had then."
    )
    if found.denied:
        _render_denied(found)


def _cells(payer: Payer) -> tuple[str, ...]:
    difference = payer.would_be - payer.charged
    return (
        f"{payer.events:,}",
        format_credits(payer.charged),
        format_credits(payer.would_be),
        f"{'+' if difference > 0 else ''}{format_credits(difference)}",
    )


def _render_denied(found: Simulation) -> None:
    rows = table(
        ("at", "pipeline", "user", "org", "reason", "required", "available"),
        right=("required", "available"),
        folds="pipeline",
    )
    for denial in found.denied[:_DENIED_SHOWN]:
        rows.add_row(
            moment(denial.at),
            denial.pipeline_id or "",
            found.names.get(denial.user_id, ""),
            found.names.get(denial.org_id, "") if denial.org_id else "",
            denial.reason,
            "" if denial.required is None else format_credits(denial.required),
            format_credits(denial.had),
        )
    out.print(rows)
