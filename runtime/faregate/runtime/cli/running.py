"""`faregate migrate`, `topics apply`, `run` and `serve`."""

from __future__ import annotations

import asyncio
from enum import StrEnum
from typing import Annotated

import typer
import uvloop

from faregate.events.topics import TopicChange, apply_topics
from faregate.ledger import migrate as migrations
from faregate.runtime import processes, servers
from faregate.runtime.cli.base import JsonOption, configure_logs, out, run_async, show
from faregate.runtime.settings import load

ProcessName = StrEnum("ProcessName", {name: name for name in processes.NAMES})  # type: ignore[misc]

topics_app = typer.Typer(help="Kafka topics.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(migrate)
    app.command()(run)
    app.command()(serve)
    app.add_typer(topics_app, name="topics")


def migrate(*, as_json: JsonOption = False) -> None:
    """Bring the database to this version, as the owner in FAREGATE_DATABASE."""
    found = servers.find(load())
    done = asyncio.run(migrations.migrate(found.database))
    text = f"applied {', '.join(done)}" if done else "nothing to do"
    show({"applied": done}, as_json=as_json, render=lambda: out.print(text))


@topics_app.command("apply")
def topics_apply(*, as_json: JsonOption = False) -> None:
    """Create the topics that are missing, and say where existing ones differ."""
    run_async(_topics_apply(as_json=as_json))


async def _topics_apply(*, as_json: bool) -> None:
    settings = load()
    changes = await apply_topics(
        servers.find(settings).kafka,
        prefix=settings.topic_prefix,
        replication=settings.replication,
        partitions=settings.partitions,
    )
    show(
        [
            {"topic": c.topic, "action": c.action, "differences": list(c.differences)}
            for c in changes
        ],
        as_json=as_json,
        render=lambda: out.print("\n".join(map(_topic_line, changes))),
    )


def _topic_line(change: TopicChange) -> str:
    return "  ".join([f"{change.action:<9} {change.topic}", *change.differences])


def run(
    names: Annotated[list[ProcessName], typer.Argument(help="One process or several.")],
) -> None:
    """Run processes of the product until SIGTERM: what they have in hand is finished first."""
    _serve([str(name.value) for name in names])


def serve() -> None:
    """Run every process of the product in one."""
    _serve(list(processes.NAMES))


def _serve(names: list[str]) -> None:
    settings = load()
    configure_logs(settings, "+".join(names))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(processes.run(settings, servers.find(settings), names))
