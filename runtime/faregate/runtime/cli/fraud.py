"""`faregate fraud`: what looks suspicious, and what a person decides about it."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, get_args

import typer

from faregate.ledger.fraud_reviews import Verdict, review
from faregate.runtime import fraud as suspicions
from faregate.runtime import servers
from faregate.runtime.cli.acting import me
from faregate.runtime.cli.base import (
    JsonOption,
    Refused,
    examples,
    ledger,
    moment,
    new_app,
    out,
    run_async,
    show,
    table,
)

app = new_app(
    "Suspicions of fraud: list them, decide about them. Neither blocks anybody.",
    "faregate fraud list",
    "faregate fraud review CASE dismissed --reason known_school",
)
VerdictName = StrEnum("VerdictName", {name: name for name in get_args(Verdict)})  # type: ignore[misc]

_USERS_SHOWN = 3


@app.command("list", epilog=examples("faregate fraud list", "faregate fraud list --all"))
def list_(
    every: Annotated[bool, typer.Option("--all", help="Those that were reviewed too.")] = False,
    *,
    as_json: JsonOption = False,
) -> None:
    """List what the stream `fraud` found suspicious and nobody has reviewed yet, oldest first."""
    run_async(_list(every=every, as_json=as_json))


async def _list(*, every: bool, as_json: bool) -> None:
    async with ledger() as (store, settings):
        cluster = settings.cluster(servers.kafka(settings))
        found = await suspicions.reviewed(store, cluster)
    shown = [case for case in found if every or case["review"] is None]
    show(shown, as_json=as_json, render=lambda: _render(shown))


def _render(cases: list[dict[str, Any]]) -> None:
    if not cases:
        out.print("Nothing is suspicious that was not reviewed.")
        return
    columns = ("case", "since", "rule", "about", "count", "users", "review")
    shown = table(columns, right=("count",), folds="users")
    for case in cases:
        users = ", ".join(case["users"][:_USERS_SHOWN])
        more = case["count"] - min(len(case["users"]), _USERS_SHOWN)
        decided = case["review"]["verdict"] if case["review"] else ""
        shown.add_row(
            case["case_id"],
            moment(case["first_at"]),
            case["rule"],
            case["account"],
            str(case["count"]),
            f"{users} and {more} more" if more > 0 else users,
            decided,
        )
    out.print(shown)


@app.command("review", epilog=examples("faregate fraud review CASE confirmed"))
def review_(
    case: Annotated[str, typer.Argument(help="Its id, as `fraud list` shows it.")],
    verdict: Annotated[VerdictName, typer.Argument(metavar="confirmed|dismissed")],
    reason: Annotated[
        str | None, typer.Option(metavar="CODE", help="A short code; it stays for ever.")
    ] = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Decide about a suspicion. It goes into the audit log; credits and users stay as they are."""
    run_async(_review(case, str(verdict.value), reason, as_json=as_json))


async def _review(case: str, verdict: str, reason: str | None, *, as_json: bool) -> None:
    async with ledger() as (store, settings):
        cluster = settings.cluster(servers.kafka(settings))
        if case not in await suspicions.cases(cluster):
            raise Refused("unknown_case", f"there is no case {case}", "faregate fraud list --all")
        done = await review(store, case, verdict, actor=me(), reason=reason)
    value = {"case_id": done.case_id, "verdict": done.verdict, "by": done.actor}
    show(value, as_json=as_json, render=lambda: out.print(f"{done.case_id}: {done.verdict}"))
