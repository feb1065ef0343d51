"""`faregate run` and `faregate serve`: the processes of the product."""

from __future__ import annotations

import asyncio
from enum import StrEnum
from typing import Annotated

import typer
import uvloop

from faregate.events.topics import apply_topics
from faregate.ledger import migrate as migrations
from faregate.runtime import logs, processes, servers
from faregate.runtime.cli.base import examples, new_app
from faregate.runtime.settings import load

ProcessName = StrEnum("ProcessName", {name: name for name in processes.NAMES})  # type: ignore[misc]

app = new_app("Processes.")

LogsOption = Annotated[
    bool, typer.Option("--json", help="Log JSON lines (to stderr), also on a terminal.")
]


@app.command(epilog=examples("faregate run entitlements", "faregate run deduction progress"))
def run(
    names: Annotated[
        list[ProcessName], typer.Argument(metavar="NAME...", help="One process or several.")
    ],
    *,
    as_json: LogsOption = False,
) -> None:
    """Run processes of the product until SIGTERM: what they have in hand is finished first."""
    _serve([str(name.value) for name in names], as_json=as_json)


@app.command(epilog=examples("faregate serve", "faregate serve --port 8080"))
def serve(
    *,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65_535, help="Run the HTTP gateway too, on this port."),
    ] = None,
    as_json: LogsOption = False,
) -> None:
    """Run every process of the product in one, until SIGTERM.

    The HTTP gateway too, where --port or FAREGATE_GATEWAY_PORT says on which port (0: a free one).

    Migrates the database and makes missing topics first, so that a new installation just starts.
    """
    asyncio.run(_prepare())
    with_gateway = port is not None or load().gateway_port is not None
    names = processes.NAMES if with_gateway else processes.ALWAYS
    _serve(list(names), as_json=as_json, port=port)


async def _prepare() -> None:
    settings = load()
    found = servers.find(settings)
    if await migrations.pending(found.database):
        await migrations.migrate(found.database)
    await apply_topics(
        found.kafka,
        kafka=settings.kafka_options(),
        prefix=settings.topic_prefix,
        replication=settings.replication,
        partitions=settings.partitions,
    )


def _serve(names: list[str], *, as_json: bool, port: int | None = None) -> None:
    settings = load()
    if port is not None:
        settings = settings.model_copy(update={"gateway_port": port})
    if as_json:
        settings = settings.model_copy(update={"log_format": "json"})
    logs.configure(settings, process="+".join(names))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(processes.run(settings, servers.find(settings), names))
