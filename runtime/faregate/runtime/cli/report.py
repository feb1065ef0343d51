"""`faregate report`: how provisioning went; with a flow or a gateway, how the flows go on it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import asyncpg
import typer
from aiokafka.errors import KafkaError
from rich.text import Text

from faregate.runtime import report as reading
from faregate.runtime import servers
from faregate.runtime.cli.base import (
    BadUsage,
    JsonOption,
    Refused,
    counted,
    examples,
    ledger,
    new_app,
    out,
    run_async,
    show,
    table,
)
from faregate.runtime.servers import ServerMissing
from faregate.runtime.settings import Settings
from faregate.runtime.stack import StackError

app = new_app("Report.")

_NUMBERS = ("grants", "credits", "left", "unused", "in_use", "used_up", "expired")
_HEADS = tuple(n.replace("_", " ") for n in _NUMBERS)


FOLDER = "faregate-report"


@app.command(
    epilog=examples(
        "faregate report",
        "faregate report --json",
        "faregate report all",
        "faregate report individual edges --out /tmp/report",
        "faregate report all --url http://127.0.0.1:8080 --admin-email root@example.com --admin-password-stdin",
    )
)
def report(
    flows: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FLOW...]", help="individual, organization, byok, admin, edges, all."
        ),
    ] = None,
    *,
    url: Annotated[
        str | None, typer.Option(help="The gateway; without one the report starts its own.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--out", help=f"Where its files go: {FOLDER} by default.")
    ] = None,
    admin_email: Annotated[
        str | None, typer.Option(help="A platform admin; or a token in FAREGATE_REPORT_TOKEN.")
    ] = None,
    admin_password_stdin: Annotated[
        bool, typer.Option("--admin-password-stdin", help="Read their password from stdin.")
    ] = False,
    database: Annotated[
        str | None,
        typer.Option(
            help="The gateway's database, to check the ledger too; or FAREGATE_REPORT_DATABASE."
        ),
    ] = None,
    upstream: Annotated[
        str | None,
        typer.Option(help="For LLM calls of its own gateway; its key is FAREGATE_LLM_API_KEY."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show how provisioning went: who got welcome credits, by layer, by A/B arm and by source.

    Layers: eager (they registered), lazy (their first decision), last_resort (their first usage).
    Unused, in use, used up and expired count grants. Failures are registrations in the dead letter
    queue; without Kafka they are not known.

    With a FLOW (or --url: all of them) it plays that flow against a gateway with people that it
    makes, checks each step on HTTP and in the ledger, and writes report.txt, report.html,
    summary.json and errors.log. Exit code 1: a step failed.
    """
    options = (admin_email, admin_password_stdin, database, upstream)
    if flows or url is not None:
        _play(flows or (), url, folder or Path(FOLDER), *options, as_json=as_json)
    elif folder is not None or any(options):
        raise BadUsage("these options are for flows: say which, or all")
    else:
        run_async(_report(as_json=as_json))


def _play(*options: Any, as_json: bool) -> None:
    """Play flows: that takes more packages than the command line has by itself."""
    try:
        from faregate.runtime.cli import report_flows
    except ImportError as error:
        message = f"the gateway's packages are not installed ({error.name})"
        raise Refused("not_installed", message, "pip install 'faregate[gateway,stack]'") from error
    report_flows.play(report_flows.Options(*options), as_json_=as_json)


async def _report(*, as_json: bool) -> None:
    async with ledger("report") as (store, settings):
        value = await reading.provisioning(store.pool)
        value["failures"] = await _failures(store.pool, settings)
    show(value, as_json=as_json, render=lambda: _render(value))


async def _failures(pool: asyncpg.Pool, settings: Settings) -> dict[str, int | None]:
    try:
        cluster = settings.cluster(servers.kafka(settings))
        return dict(await reading.failures(pool, cluster))
    except (ServerMissing, StackError, KafkaError, OSError):
        return {"dead_letters": None, "unread": None}


def _render(value: dict[str, Any]) -> None:
    users = value["users"]
    share = "" if users["success"] is None else f" ({users['success']:.1%})"
    out.print(
        f"{counted(users['seen'], 'user')} seen: {users['provisioned']:,} provisioned{share}, "
        f"{users['pending']:,} waiting for a verified e-mail address, {users['without']:,} without"
    )
    _section("layer", value["layers"])
    if value["arms"]:
        _section("arm", value["arms"])
    if value["sources"]:
        _section("source", value["sources"])
    out.print(f"\n{_failed(value['failures'])}")


def _section(by: str, rows: Sequence[dict[str, Any]]) -> None:
    shown = table((by, *_HEADS), right=_HEADS)
    for row in rows:
        shown.add_row(Text(row[by]), *(f"{row[n]:,}" for n in _NUMBERS))
    out.print()
    out.print(shown)


def _failed(failures: dict[str, int | None]) -> str:
    dead, unread = failures["dead_letters"], failures["unread"]
    if dead is None or unread is None:
        return "Kafka does not answer, so failed registrations are not known."
    waiting = f"; {counted(unread, 'registration')} to read" if unread else ""
    if not dead:
        return f"No registration failed{waiting}."
    see = "see them with `faregate dlq list users.registered`"
    return f"{counted(dead, 'registration')} in the dead letter queue{waiting}: {see}"
