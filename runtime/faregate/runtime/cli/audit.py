"""`faregate audit`: who did what, when, and what came of it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from faregate.ledger.reading_audit import audit as read_audit
from faregate.runtime.cli.base import (
    JsonOption,
    examples,
    ledger,
    moment,
    new_app,
    out,
    run_async,
    show,
    subject_argument,
    table,
)

app = new_app("The audit log.")


@app.command(
    epilog=examples("faregate audit", "faregate audit --account org:acme --limit 20 --json")
)
def audit(
    account: Annotated[
        str | None, typer.Option(metavar="SUBJECT", help="Acts on this account only.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many.")] = 50,
    before: Annotated[int | None, typer.Option(help="Acts before this id.")] = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """List administrative acts, newest first, also those that were refused."""
    subject = None if account is None else subject_argument(account)
    run_async(_audit(subject, limit, before, as_json=as_json))


async def _audit(subject: str | None, limit: int, before: int | None, *, as_json: bool) -> None:
    async with ledger() as (store, _):
        found = await read_audit(store, subject, limit, before)
    show(found, as_json=as_json, render=lambda: _render(found))


def _render(found: list[dict[str, Any]]) -> None:
    if not found:
        out.print("No administrative act was logged.")
        return
    shown = table(("id", "at", "who", "action", "result", "account", "what"), right=("id",))
    for act in found:
        what = ", ".join(f"{name} {value}" for name, value in act["metadata"].items())
        who, of = act["actor"] or "(erased)", act["account"] or ""
        shown.add_row(
            str(act["id"]), moment(act["at"]), who, act["action"], act["result"], of, what
        )
    out.print(shown)
