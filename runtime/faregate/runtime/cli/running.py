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


@app.command(epilog=examples("faregate run entitlements", "faregate run deduction progress"))
def run(
    names: Annotated[list[ProcessName], typer.Argument(help="One process or several.")],
) -> None:
    """Run processes of the product until SIGTERM: what they have in hand is finished first."""
    _serve([str(name.value) for name in names])


@app.command()
def serve() -> None:
    """Run every process of the product in one, until SIGTERM.

    Migrates the database and makes missing topics first, so that a new installation just starts.
    """
    asyncio.run(_prepare())
    _serve(list(processes.NAMES))


async def _prepare() -> None:
    settings = load()
    found = servers.find(settings)
    if await migrations.pending(found.database):
        await migrations.migrate(found.database)
    await apply_topics(
        found.kafka,
        prefix=settings.topic_prefix,
        replication=settings.replication,
        partitions=settings.partitions,
    )


def _serve(names: list[str]) -> None:
    settings = load()
    logs.configure(settings, process="+".join(names))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(processes.run(settings, servers.find(settings), names))
