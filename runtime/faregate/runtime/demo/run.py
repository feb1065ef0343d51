"""From nothing to the told story and back: servers, processes, story, and nothing left."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from uuid import uuid4

from faregate.events import apply_topics
from faregate.ledger.migrate import migrate
from faregate.runtime import servers, stack
from faregate.runtime.demo.client import Unexpected, connect
from faregate.runtime.demo.guard import guarded
from faregate.runtime.demo.installation import Children, Elsewhere, Installation
from faregate.runtime.demo.play import Cast, Play, Summary, perform
from faregate.runtime.demo.screen import Screen
from faregate.runtime.demo.story import STEPS
from faregate.runtime.settings import Settings, load
from faregate.runtime.supervisor import ProcessFault, Supervisor, note_kept, stop_kept

NAMES = ("entitlements", "deduction", "progress", "provisioning", "relay", "sweeper")
"""The processes that the story needs."""

PREFIX = "FAREGATE_"
_NOT_FOR_CHILDREN = {"FAREGATE_FAILPOINT", "FAREGATE_HOME"}


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for on the command line."""

    keep: bool = False
    external: bool = False
    kill_command: str | None = None
    restart_command: str | None = None
    patience_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where the story takes place. `settings` are given to the processes; `shared`: others too."""

    settings: Settings
    kafka: str
    database: str = field(repr=False)  # it holds the password
    home: Path
    logs: Path
    shared: bool
    server_pids: dict[str, int] = field(default_factory=dict)


def run(options: Options, screen: Screen) -> Summary:
    """Tell the story; the summary says whether all of it holds.

    Raises StackError and the like when it cannot even begin. Nothing is left running, except
    with `keep` after a story that holds.
    """
    # What the client logs while a group forms is noise here; a fault comes as an exception.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    summary = Summary()
    begun = monotonic()
    with _place(options, screen) as place:
        try:
            asyncio.run(_tell(place, options, screen, summary))
        except (Unexpected, ProcessFault) as error:
            summary.ok, summary.error = False, str(error)
    summary.seconds = round(monotonic() - begun, 1)
    return summary


@contextmanager
def _place(options: Options, screen: Screen) -> Iterator[Place]:
    """Give servers of our own unless the settings name some."""
    if options.external or {"FAREGATE_KAFKA", "FAREGATE_DATABASE"} <= os.environ.keys():
        settings = load()
        found = servers.find(settings)
        home = settings.home or stack.default_home()
        with TemporaryDirectory(prefix="faregate-demo-") as logs:
            kept = home / "logs" if options.keep else Path(logs)
            yield Place(settings, found.kafka, found.database, home, kept, shared=True)
        return
    for name in [n for n in os.environ if n.startswith(PREFIX) and n != "FAREGATE_HOME"]:
        del os.environ[name]  # the story is about the defaults
    with _kept_stack(screen) if options.keep else _own_stack(screen) as (info, shared):
        pids = {"kafka": info.kafka_pid or 0, "postgres": info.postgres_pid or 0}
        logs_ = info.logs["kafka"].parent
        yield Place(load(), info.kafka, info.database, info.home, logs_, shared, pids)


@contextmanager
def _own_stack(screen: Screen) -> Iterator[tuple[stack.StackInfo, bool]]:
    with stack.running(kafka=False, database=False) as empty, guarded(empty.home):
        with screen.busy("starting Kafka and PostgreSQL") as say:
            info = stack.up(empty.home, ephemeral=True, progress=say)
        yield info, False


@contextmanager
def _kept_stack(screen: Screen) -> Iterator[tuple[stack.StackInfo, bool]]:
    """Use the default home; what runs there already is used and stays."""
    home = stack.default_home()
    stop_kept(home)
    found = stack.status(home)
    there = found is not None and (found.kafka_alive or found.postgres_alive)
    ephemeral = found.ephemeral if found is not None and there else True
    with screen.busy("starting Kafka and PostgreSQL") as say:
        info = stack.up(home, ephemeral=ephemeral, progress=say)
    try:
        yield info, there
    except BaseException:
        if not there:
            stack.down(home)
        raise


async def _tell(place: Place, options: Options, screen: Screen, summary: Summary) -> None:
    begun = monotonic()
    summary.home = str(place.home) if place.server_pids or options.keep else None
    cluster = place.settings.cluster(place.kafka)
    run_id = uuid4().hex[:6]
    cast = Cast.called(run_id if place.shared else "")
    screen.title(
        "ask before you run, pay as you run, prove every credit",
        f"10 essays of {cast.subjects[1]} at {cast.subjects[0]}; new accounts get no free credits",
    )
    async with _installation(place, options, screen, summary) as installation:
        group = f"{cluster.prefix}faregate.demo.{run_id}"
        rules = place.settings.model_copy(update={"provisioning": "manual"}).rules()
        async with connect(
            cluster, place.database, rules, group, patience_s=options.patience_s
        ) as client:
            screen.set_up(f"ready after {monotonic() - begun:.1f} s")
            await perform(Play(client, installation, cast, screen, summary), STEPS)


@asynccontextmanager
async def _installation(
    place: Place, options: Options, screen: Screen, summary: Summary
) -> AsyncIterator[Installation]:
    """Run the product's processes, unless they run elsewhere."""
    if options.external:
        yield Elsewhere(options.kill_command, options.restart_command)
        return
    with screen.busy("creating tables and topics"):
        await asyncio.gather(
            migrate(place.database),
            apply_topics(
                place.kafka,
                kafka=place.settings.kafka_options(),
                prefix=place.settings.topic_prefix,
                replication=place.settings.replication,
                partitions=place.settings.partitions,
            ),
        )
    env = _environment(place)
    async with Supervisor(env, place.logs, detached=options.keep) as supervisor:
        for name in NAMES:
            supervisor.start(name)
        if options.keep:
            note_kept(place.home, supervisor.pids())
        summary.processes = place.server_pids | supervisor.pids()
        with screen.busy(f"starting {', '.join(NAMES)}"):
            await supervisor.wait_ready()
        try:
            yield Children(supervisor)
        except Unexpected as error:
            raise Unexpected(f"{error}\n\n{supervisor.report()}") from error
        summary.processes |= supervisor.pids()  # one of them is a new one now
        if options.keep:
            supervisor.keep(place.home)
            summary.kept = True


def _environment(place: Place) -> dict[str, str]:
    """Give what the processes see: the settings in force, and what the story needs."""
    given = {k: v for k, v in os.environ.items() if k.startswith(PREFIX)}
    return {
        **{k: v for k, v in given.items() if k not in _NOT_FOR_CHILDREN},
        "FAREGATE_KAFKA": place.kafka,
        "FAREGATE_DATABASE": place.database,
        "FAREGATE_PROVISIONING": "manual",
        "FAREGATE_SESSION_TIMEOUT_MS": "6000",  # the group notices the killed member this late
        "FAREGATE_LOG_FORMAT": "json",
    }
