"""`faregate verify`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.progress import Progress

from faregate.consumers.checkpoints import Said, read_checkpoints
from faregate.ledger.verify import Report
from faregate.ledger.verify import verify as prove
from faregate.runtime import logs, servers
from faregate.runtime.cli.base import (
    NO,
    JsonOption,
    counted,
    examples,
    ledger,
    new_app,
    out,
    run_async,
    show,
    table,
    time_argument,
)
from faregate.runtime.cli.progress import bars
from faregate.runtime.settings import Settings
from faregate.runtime.wording import in_credits

app = new_app("Verify.")


@app.command(
    epilog=examples(
        "faregate verify",
        "faregate verify --since 2025-06-01",
        "faregate verify --without-checkpoints --json",
    )
)
def verify(
    since: Annotated[
        str | None, typer.Option(help="Only accounts and outcomes that moved since (RFC 3339).")
    ] = None,
    without_checkpoints: Annotated[
        bool,
        typer.Option(
            "--without-checkpoints",
            help="Do not read Kafka; ends that were cut off are not found then.",
        ),
    ] = False,
    *,
    as_json: JsonOption = False,
) -> None:
    """Recompute the ledger from its entries and name every row that does not fit; exit 1 if any.

    The accounts' ends are compared with the checkpoints in Kafka: without those, entries cut off
    at the end of an account, or an account that was removed whole, are not found.
    """
    start = time_argument(since, "--since")
    run_async(_verify(start, with_checkpoints=not without_checkpoints, as_json=as_json))


async def _verify(since: datetime | None, *, with_checkpoints: bool, as_json: bool) -> None:
    with bars(quiet=as_json) as progress:
        async with ledger("verify") as (store, settings):
            logs.configure(settings, process="verify")  # to stderr
            said = await _checkpoints(settings, progress) if with_checkpoints else None
            task = progress.add_task("entries", total=None)

            def report(done: int, total: int) -> None:
                progress.update(task, completed=done, total=total)

            found = await prove(
                store.pool,
                checkpoints=said.checkpoints if said else None,
                since=since,
                progress=report,
            )
    found.notes["checkpoints_unreadable"] = said.unreadable if said else 0
    value = found.as_json() | {"with_checkpoints": with_checkpoints}
    show(value, as_json=as_json, render=lambda: _render(found, with_checkpoints=with_checkpoints))
    if not found.ok:
        raise typer.Exit(NO)


async def _checkpoints(settings: Settings, progress: Progress) -> Said:
    cluster = settings.cluster(servers.kafka(settings))
    task = progress.add_task("checkpoints in Kafka", total=None)
    found = await read_checkpoints(cluster)
    progress.update(task, completed=1, total=1)
    return found


def _notes(notes: Mapping[str, Any]) -> Iterator[str]:
    """Say what is worth knowing and no drift."""
    held, debt = in_credits(notes["held_micro"]), in_credits(notes["debt_micro"])
    if notes["live_holds"]:
        used_up = notes["live_holds_used_up"]
        empty = f"; {used_up:,} of them nothing more, all of it was used" if used_up else ""
        holds = counted(notes["live_holds"], "live hold reserves", "live holds reserve")
        yield f"{holds} {held}{empty}"
    if notes["accounts_in_debt"]:
        yield f"{counted(notes['accounts_in_debt'], 'account owes', 'accounts owe')} {debt}"
    if notes["outbox_waiting"]:
        waiting = counted(notes["outbox_waiting"], "transaction waits", "transactions wait")
        yield f"{waiting} to be announced by the relay"
    if notes["unpriced"]:
        kinds = sorted({str(u["phase"] or u["model"]) for u in notes["unpriced_first"]})
        waiting = counted(notes["unpriced"], "usage event waits", "usage events wait")
        yield f"{waiting} for a price: {', '.join(kinds)}"
    if notes["checkpoints_unreadable"]:
        records = counted(notes["checkpoints_unreadable"], "record")
        yield f"{records} in credits.checkpoints cannot be read: nobody but the relay may write there"
    for recovery in notes["recoveries"]:
        yield f"restored from a backup, seen {recovery['found_at']}: {recovery['detail']}"


def _render(report: Report, *, with_checkpoints: bool) -> None:
    beside = counted(report.checkpoints, "checkpoint") if with_checkpoints else "no checkpoints"
    entries = counted(report.entries, "entry", "entries")
    checked = f"{entries} of {counted(report.accounts, 'account')}, {beside}"
    for line in _notes(report.notes):
        out.print(f"note: {line}", markup=False)
    if report.ok:
        out.print(f"[green]OK[/green]  {checked}, {report.seconds:.1f} s")
        return
    rows = table(("what", "row", "found"))
    for finding in report.findings:
        rows.add_row(finding.kind, finding.row, finding.message)
    out.print(rows)
    out.print(
        f"[red]DRIFT[/red]  {counted(report.findings_total, 'finding')} in {checked}, {report.seconds:.1f} s"
    )
