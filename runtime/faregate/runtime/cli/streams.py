"""`faregate streams`."""

from __future__ import annotations

import asyncio
import logging
from enum import StrEnum
from typing import Annotated

import typer

from faregate.runtime import logs, servers, streaming
from faregate.runtime.cli.base import BadUsage, Refused, examples, new_app
from faregate.runtime.settings import Settings, load
from faregate.streams import NAMES

StreamName = StrEnum("StreamName", {name: name for name in NAMES})  # type: ignore[misc]

app = new_app("Streams.")

LogsOption = Annotated[
    bool, typer.Option("--json", help="Log JSON lines (to stderr), also on a terminal.")
]


@app.command(epilog=examples("faregate streams", "faregate streams burn reconcile"))
def streams(
    names: Annotated[
        list[StreamName] | None,
        typer.Argument(metavar="[NAME...]", help=f"{', '.join(NAMES)}; all if none is named."),
    ] = None,
    *,
    as_json: LogsOption = False,
) -> None:
    """Derive live signals until SIGTERM: burn, denials, attribution, fraud, reconcile.

    They are published on signals.burn, signals.denials and so on. No money moves by them. Start
    it more than once to share the work.
    """
    chosen = list(dict.fromkeys(str(name.value) for name in names)) if names else list(NAMES)
    settings = load()
    if as_json:
        settings = settings.model_copy(update={"log_format": "json"})
    logs.configure(settings, process="streams")
    asyncio.run(_run(chosen, settings))


async def _run(names: list[str], settings: Settings) -> None:
    try:
        import faust  # noqa: F401 - only to say early, and well, that it is missing
    except ModuleNotFoundError as error:
        raise BadUsage(
            f"{error.name} is not installed: streams need an extra of their own",
            "pip install 'faregate[streams]'",
        ) from error
    from faregate.streams.faults import StreamsFault
    from faregate.streams.worker import run

    logging.getLogger("faust").setLevel(logging.ERROR)
    with streaming.state_directory(settings) as directory:
        options = streaming.options(settings, servers.kafka(settings), directory)
        try:
            await run(names, options)
        except StreamsFault as error:
            raise Refused("streams_ended", str(error), "faregate doctor") from error
