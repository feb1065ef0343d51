"""`faregate prices`: apply, show and explain the price book."""

from __future__ import annotations

import json
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from faregate.events.amounts import to_credits
from faregate.ledger.core import Book, InvalidBook, parse_book
from faregate.ledger.core.prices_document import without_shown
from faregate.ledger.pricing import AppliedPrices, apply_prices, price_books
from faregate.ledger.pricing import prices as read_prices
from faregate.runtime.cli import simulate
from faregate.runtime.cli.acting import me
from faregate.runtime.cli.base import (
    BadUsage,
    JsonOption,
    Refused,
    counted,
    err,
    examples,
    ledger,
    moment,
    new_app,
    out,
    run_async,
    show,
    table,
    time_argument,
)
from faregate.runtime.cli.prices_models import explain_model, render_models
from faregate.runtime.computed import priced_phases
from faregate.runtime.wording import in_credits, plain

app = new_app(
    "Apply, show and explain the price book. Versions are never changed, only followed.",
    "faregate prices show",
    "faregate prices explain cj_assessment --items 10",
)

TokensOption = Annotated[
    int | None, typer.Option(min=0, max=10**9, help="Tokens of a call of a model.")
]
VersionOption = Annotated[int | None, typer.Option(help="A version; the one in force by default.")]


@app.command(
    epilog=examples(
        "faregate prices show --json > prices.json  # what is in force: change it, then",
        "faregate prices apply prices.json",
        "faregate prices apply prices.json --effective-from 2030-01-01T00:00:00Z",
    )
)
def apply(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="The whole price book, as .toml or .json.")
    ],
    effective_from: Annotated[
        str | None, typer.Option(help="In force from then on (RFC 3339); now by default.")
    ] = None,
    backdate: Annotated[bool, typer.Option("--backdate", help="Allow a time in the past.")] = False,
    *,
    as_json: JsonOption = False,
) -> None:
    """Make FILE the next version of the price book; a file is a whole book, nothing is merged.

    A book has pipelines (which phases each runs) and phases (per item, pair or flat, credits);
    a price of 0 is a price, a phase that is not named has none and is denied.
    """
    start = time_argument(effective_from, "--effective-from")
    run_async(_apply(_document(file), start, backdate=backdate, as_json=as_json))


def _document(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text()
        document = json.loads(text) if file.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise BadUsage(f"cannot read {file}: {error.strerror}", _EXAMPLE) from error
    except ValueError as error:  # a UnicodeDecodeError is one
        kind = "JSON" if file.suffix == ".json" else "TOML (JSON is read from files named .json)"
        raise BadUsage(f"{file} is not {kind}: {error}", _EXAMPLE) from error
    if not isinstance(document, dict):
        raise BadUsage(f"{file} must hold one object with pipelines and phases", _EXAMPLE)
    book = without_shown(document)  # as `prices show --json` prints it
    try:
        parse_book(0, datetime.now(UTC), book)  # said before any server is needed
    except InvalidBook as error:
        raise BadUsage(f"{file}: {error}", f"correct {file}; {_EXAMPLE}") from error
    if not (book.get("phases") or book.get("models")):
        message = f"{file} has no phases and no models: nothing would have a price"
        raise BadUsage(message, _EXAMPLE)
    return book


_EXAMPLE = "see a whole book with: faregate prices show --json"


async def _apply(document: dict[str, Any], start: Any, *, backdate: bool, as_json: bool) -> None:
    async with ledger() as (store, _):
        done = await apply_prices(store, document, start, by=me(), backdate=backdate)
    if done.backdated:
        err.print(
            "warning: backdated. What was charged stays as it is; usage that happened since then "
            "and arrives from now on is charged by this version.",
            style="yellow",
        )
    unpriced = {p for names in done.book.pipelines.values() for p in names} - set(done.book.phases)
    if unpriced:
        names = ", ".join(sorted(unpriced))
        err.print(f"warning: pipelines run {names}, which has no price: denied", style="yellow")
    value = {
        "version": done.book.version,
        "effective_from": done.book.effective_from.isoformat(),
        "backdated": done.backdated,
        "pipelines": len(done.book.pipelines),
        "phases": len(done.book.phases),
        "unpriced": done.unpriced,
        "unpriced_to_charge": done.priced,
    }
    show(value, as_json=as_json, render=lambda: _render_applied(done))


def _render_applied(done: AppliedPrices) -> None:
    book = done.book
    out.print(f"Price version {book.version} is in force from {moment(book.effective_from)}.")
    phases, pipelines = counted(len(book.phases), "phase"), counted(len(book.pipelines), "pipeline")
    out.print(f"It has {phases} and {pipelines}.")
    if not done.unpriced:
        return
    waiting = counted(done.unpriced, "usage event waits", "usage events wait")
    out.print(f"{waiting} for a price.")
    are = "is" if done.priced == 1 else "are"
    out.print(f"{done.priced:,} of them {are} charged by the sweeper once it is in force.")


@app.command("show", epilog=examples("faregate prices show", "faregate prices show --version 1"))
def show_(version: VersionOption = None, *, as_json: JsonOption = False) -> None:
    """Show the price book in force, or another version of it."""
    run_async(_show(version, as_json=as_json))


async def _show(version: int | None, *, as_json: bool) -> None:
    async with ledger() as (store, _):
        found = await read_prices(store, version)
    if found is None:
        which = f"no price version {version}" if version is not None else "no prices are in force"
        raise Refused("unknown_version", which, "add one with: faregate prices apply FILE")
    show(found, as_json=as_json, render=lambda: _render_book(found))


def _render_book(found: dict[str, Any]) -> None:
    state = "in force" if found["in_force"] else "not in force"
    start = moment(found["effective_from"]) if found["version"] > 1 else "the beginning"
    out.print(f"Price version {found['version']} ({state}), from {start}")
    phases = table(("phase", "credits", "per"), right=("credits",))
    for name, price in sorted(found["phases"].items()):
        phases.add_row(name, plain(price["credits"]), price["per"])
    out.print(phases)
    pipelines = table(("pipeline", "runs"))
    for name, names in sorted(found["pipelines"].items()):
        pipelines.add_row(name, " -> ".join(names))
    out.print()
    out.print(pipelines)
    render_models(found)
    if len(found["versions"]) > 1:
        versions = table(("version", "from", "applied", "by"))
        for v in found["versions"]:
            times = (moment(v["effective_from"]), moment(v["applied_at"]))
            versions.add_row(str(v["version"]), *times, v["applied_by"])
        out.print()
        out.print(versions)


@app.command(
    epilog=examples(
        "faregate prices explain cj_assessment --items 10",
        "faregate prices explain cj_assessment --items 10 --phase",
        "faregate prices explain gpt-4o-mini --input-tokens 1200 --output-tokens 300",
    )
)
def explain(
    name: Annotated[str, typer.Argument(metavar="PHASE_OR_PIPELINE_OR_MODEL")],
    items: Annotated[
        int | None, typer.Option(min=1, max=1_000_000, help="How many items a run is over.")
    ] = None,
    input_tokens: TokensOption = None,
    output_tokens: TokensOption = None,
    tier: Annotated[
        str | None, typer.Option(help="The user's tier, for models priced by tier.")
    ] = None,
    version: VersionOption = None,
    phase: Annotated[
        bool, typer.Option("--phase", help="The phase, where a pipeline has the same name.")
    ] = False,
    *,
    as_json: JsonOption = False,
) -> None:
    """Say what a run or a call needs and how that is computed.

    Phases completed before are not deducted.
    """
    tokens = None
    if input_tokens is not None or output_tokens is not None:
        tokens = (input_tokens or 0, output_tokens or 0)
    if (items is None) == (tokens is None):
        message = "say --items for a phase or a pipeline, --input-tokens and --output-tokens"
        raise BadUsage(f"{message} for a model")
    run_async(_explain(name, items, tokens, tier, version, phase=phase, as_json=as_json))


async def _explain(
    name: str,
    items: int | None,
    tokens: tuple[int, int] | None,
    tier: str | None,
    version: int | None,
    *,
    phase: bool,
    as_json: bool,
) -> None:
    async with ledger() as (store, _):
        books = await price_books(store.pool)
        found = await read_prices(store, version)
    if found is None:
        which = f"no price version {version}" if version is not None else "no prices are in force"
        raise Refused("unknown_version", which, "see what there is with: faregate prices show")
    book = books.versions[found["version"]]
    if tokens is not None:
        call = explain_model(book, name, tokens, tier)
        show(call, as_json=as_json, render=lambda: out.print(call["how"], markup=False))
        return
    value = _needs(book, name, items or 1, phase=phase)
    missing = [p["phase"] for p in value["phases"] if p["required_credits"] is None]
    if missing:
        message = f"{name} needs {', '.join(missing)}, which has no price: it would be denied"
        raise Refused("unknown_price", message, "add the price: faregate prices apply FILE")
    show(value, as_json=as_json, render=lambda: _render_needs(value))


def _needs(book: Book, name: str, items: int, *, phase: bool) -> dict[str, Any]:
    is_pipeline = name in book.pipelines and not phase
    if not is_pipeline and name not in book.phases:
        known = ", ".join(sorted({*book.pipelines, *book.phases}))
        raise Refused(
            "unknown_price", f"no pipeline and no phase {name!r}; price version {book.version} "
            f"has: {known}", "add the price: faregate prices apply FILE",
        )  # fmt: skip
    names = book.pipelines[name] if is_pipeline else (name,)
    required = book.required(names, items)
    return {
        "name": name,
        "kind": "pipeline" if is_pipeline else "phase",
        "items": items,
        "price_version": book.version,
        "required_credits": None if required is None else to_credits(required),
        "phases": priced_phases(book, names, items),
    }


def _render_needs(value: dict[str, Any]) -> None:
    total = in_credits(round(value["required_credits"] * 1_000_000))
    out.print(
        f"{value['kind']} {value['name']} over {counted(value['items'], 'item')} needs {total} "
        f"(price version {value['price_version']}):"
    )
    for phase in value["phases"]:
        out.print(f"  {phase['how']}")


simulate.register(app, _document)
