"""`faregate erase`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from faregate.consumers.kafka import Cluster
from faregate.ledger.erase import Erasure, require_at_rest
from faregate.ledger.erase import erase as erase_in
from faregate.runtime import erasing, servers
from faregate.runtime.cli.acting import me
from faregate.runtime.cli.base import (
    BadUsage,
    JsonOption,
    counted,
    err,
    examples,
    ledger,
    new_app,
    out,
    run_async,
    show,
    subject_argument,
    table,
)
from faregate.runtime.cli.owner import owner
from faregate.runtime.settings import Settings

app = new_app("Erase.")


@app.command(epilog=examples("faregate erase user:42", "faregate erase user:42 --yes --json"))
def erase(
    subject: Annotated[str, typer.Argument(help="Who: user:<id>.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Also with live holds, debt or facts not announced.")
    ] = False,
    org: Annotated[bool, typer.Option("--org", help="Allow an organization (org:<id>).")] = False,
    also: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Another name that they acted under, such as a login."),
    ] = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Take a person's identifiers out of the ledger, as the owner of the database.

    Their account stays, as nobody's: entries and hashes are as they were, and `faregate verify`
    finds nothing. What Kafka and backups still have, and for how long, is said at the end.
    """
    subject_argument(subject)
    if subject.startswith("org:") and not org:
        raise BadUsage(f"{subject} is an organization: say --org if that is meant")
    if not yes:
        _ask(subject, as_json=as_json)
    run_async(_erase(subject, also or [], force=force, as_json=as_json))


def _ask(subject: str, *, as_json: bool) -> None:
    if as_json or not err.is_terminal:
        raise BadUsage("an erasure cannot be undone: say --yes")
    typer.confirm(f"Erase {subject}? It cannot be undone", abort=True, err=True)


async def _erase(subject: str, also: list[str], *, force: bool, as_json: bool) -> None:
    by = me()
    async with ledger("erase") as (store, settings), owner("erase") as connection:
        if not force:
            await require_at_rest(connection, subject)
        await erasing.end_tier(store, subject, by)
        done = await erase_in(connection, store.keys, subject, by=by, names=also, force=force)
        topics = await erasing.retention(_kafka(settings), settings.topic_prefix)
    value = _value(done, topics)
    show(value, as_json=as_json, render=lambda: _render(value))


def _kafka(settings: Settings) -> Cluster | None:
    try:
        return settings.cluster(servers.kafka(settings))
    except servers.ServerMissing:
        return None


def _value(done: Erasure, topics: list[dict[str, Any]]) -> dict[str, Any]:
    database = []
    if done.prices:
        database.append(f"{done.prices} price versions say who applied them; those never change")
    return {
        **asdict(done),
        "erased": done.found,
        "remains": {"kafka": topics, "database": database, "backups": erasing.BACKUPS},
    }


def _render(value: dict[str, Any]) -> None:
    subject, account = value["subject"], value["account"]
    if not value["erased"]:
        before = f" (erased before: {', '.join(value['earlier'])})" if value["earlier"] else ""
        out.print(f"Nothing is left of {subject} in the database{before}.", markup=False)
    else:
        named = f": the account is {account} now" if account else ""
        out.print(f"Erased {subject}{named}.", markup=False)
        out.print(
            f"Emptied: {counted(value['refs'], 'reference')} of their events, "
            f"{counted(value['grants'], 'grant')}, {counted(value['acts'], 'act')} in the audit "
            f"log, {counted(value['settings'], 'setting')}, "
            f"{counted(value['sign_ins'], 'row')} of who may sign in."
        )
    for line in value["remains"]["database"]:
        out.print(f"Remains in the database: {line}.", markup=False)
    out.print("\nKafka keeps what was published, and what waits as a dead letter:")
    rows = table(("topic", "kept for", "by"), right=("kept for",))
    for topic in value["remains"]["kafka"]:
        kept = "ever" if topic["days"] is None else counted(topic["days"], "day")
        said = "the cluster" if topic["from"] == "cluster" else "definition"
        rows.add_row(topic["topic"], kept, said)
    out.print(rows)
    out.print(f"\n{value['remains']['backups']}")
