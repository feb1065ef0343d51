"""`faregate rebuild`."""

from __future__ import annotations

import typer

from faregate.ledger.rebuild_live import Comparison, rebuild_and_compare
from faregate.runtime.cli.base import (
    NO,
    JsonOption,
    counted,
    examples,
    new_app,
    out,
    run_async,
    show,
    table,
)
from faregate.runtime.cli.owner import owner
from faregate.runtime.cli.progress import bar

app = new_app("Rebuild.")


@app.command(epilog=examples("faregate rebuild", "faregate rebuild --json"))
def rebuild(*, as_json: JsonOption = False) -> None:
    """Rebuild every balance, grant, hold, allocation and quota from the entries; exit 1 if any differs.

    Needs the rights of the database's owner: what is rebuilt stays in the schema `rebuilt`, made
    anew each time, for you to look at. Live tables are read and never written.
    """
    run_async(_rebuild(as_json=as_json))


async def _rebuild(*, as_json: bool) -> None:
    async with owner("rebuild") as connection:
        with bar("entries", quiet=as_json) as report:
            done = await rebuild_and_compare(connection, report)
    show(done.as_json(), as_json=as_json, render=lambda: _render(done))
    if not done.ok:
        raise typer.Exit(NO)


def _render(done: Comparison) -> None:
    made = (
        f"{counted(done.entries, 'entry', 'entries')} make {counted(done.accounts, 'account')}, "
        f"{counted(done.grants, 'grant')}, {counted(done.holds, 'hold')} with something reserved"
    )
    if done.ok:
        out.print(f"[green]EQUAL[/green]  {made}, {done.seconds:.1f} s")
        return
    rows = table(("account", "what", "live", "rebuilt"), right=("live", "rebuilt"), folds="what")
    for d in done.differences:
        rows.add_row(d.account, d.what, d.live or "-", d.rebuilt or "-")
    out.print(rows)
    listed, total = len(done.differences), done.differences_total
    more = f" (the first {listed:,} are listed)" if listed < total else ""
    out.print(f"[red]DIFFERENT[/red]  {counted(total, 'difference')}{more}; {made}")
    out.print("Amounts are micro-credits. What was rebuilt is in the schema rebuilt.")
