"""One installation of Faregate: a database and a topic prefix of its own, and its processes."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar
from uuid import uuid4

from faregate.consumers.kafka import Cluster
from faregate.events import apply_topics
from faregate.ledger.core import Rules
from faregate.runtime.settings import PREFIX, Settings
from faregate.testing.backends import Runner
from faregate.testing.databases import database_name, drop_database, fresh_database, with_database
from faregate.testing.places import Place
from faregate.testing.processes import ALL_IN_ONE, Processes, tail, wait_ready
from faregate.testing.topics import delete_topics

PARTITIONS = 2
SESSION_TIMEOUT_MS = 6000
DEFAULTS: dict[str, Any] = {"provisioning": "manual", "sweep_every_s": 0.2}
"""Settings that differ from production's: nobody is welcomed with credits, time is noticed soon."""

Value = TypeVar("Value")


@dataclass(slots=True)
class Installation:
    """Faregate at work. `database` is its owner's URL, as the suite reaches it."""

    runner: Runner
    place: Place
    prefix: str
    database: str
    settings: dict[str, Any]
    names: tuple[str, ...]
    processes: Processes
    shared_servers: bool = False
    """Whether other workers or installations use the same servers, so that they must stay up."""

    alone: bool = False
    """Whether one test has it for itself."""

    _rules: Rules | None = field(default=None, repr=False)

    @property
    def kafka(self) -> str:
        """Where Kafka is, as the suite reaches it."""
        return self.place.kafka

    @property
    def environment(self) -> dict[str, str]:
        """What a service under test is to be told: where Kafka is, and the prefix of topics."""
        return {"FAREGATE_KAFKA": self.kafka, "FAREGATE_TOPIC_PREFIX": self.prefix}

    @property
    def operator_environment(self) -> dict[str, str]:
        """What `faregate` commands on this machine are to be told; the database is its owner's."""
        return _environment(self.kafka, self.database, self.prefix, self.settings)

    @property
    def cluster(self) -> Cluster:
        """Kafka with our prefix."""
        return Cluster(self.kafka, self.prefix, SESSION_TIMEOUT_MS)

    @property
    def rules(self) -> Rules:
        """The rules that the processes decide by."""
        if self._rules is None:
            with _without_ours():
                self._rules = Settings(**self.settings).rules()
        return self._rules

    def report(self) -> dict[str, str]:
        """Give the ends of all logs, by what wrote them."""
        found = {}
        for name in self.processes.names():
            state = "running" if self.processes.running(name) else "ended"
            title = "all processes" if name == ALL_IN_ONE else name
            found[f"faregate {title} ({state})"] = tail(self.processes, name)
        return found | self.runner.server_logs(self.place)


@contextmanager
def installed(
    runner: Runner,
    place: Place,
    *,
    names: tuple[str, ...] = (ALL_IN_ONE,),
    shared_servers: bool = False,
    alone: bool = False,
    **settings: Any,
) -> Iterator[Installation]:
    """Install Faregate and run it for the length of the block; nothing of it is left afterwards.

    `settings` are those of the product by their names in lower case (`hold_ttl_s=5`).
    """
    chosen = DEFAULTS | settings
    prefix = f"t{uuid4().hex[:10]}."
    database = run_here(fresh_database(place.database, clock=True))
    try:
        with TemporaryDirectory(prefix="faregate-testing-") as logs:
            env = _processes_environment(place, prefix, database, chosen)
            processes = runner.processes(place, env, Path(logs))
            made = Installation(
                runner, place, prefix, database, chosen, names, processes, shared_servers, alone
            )
            try:
                run_here(_start(made))
                yield made
            finally:
                run_here(processes.stop())
    finally:
        run_here(_remove(place, prefix, database))


def run_here(work: Coroutine[Any, Any, Value]) -> Value:
    """Run a coroutine to its end on a loop of its own: fixtures of a session have none."""
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(work)
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


async def _start(made: Installation) -> None:
    await apply_topics(made.kafka, prefix=made.prefix, partitions=PARTITIONS)
    for name in made.names:
        made.processes.start(name)
    await wait_ready(made.processes, made.prefix, *made.names)


async def _remove(place: Place, prefix: str, database: str) -> None:
    await drop_database(place.database, database)
    await delete_topics(place.kafka, prefix)


def _processes_environment(
    place: Place, prefix: str, database: str, settings: Mapping[str, Any]
) -> dict[str, str]:
    inside = with_database(place.inside_database, database_name(database))
    return _environment(place.inside_kafka, inside, prefix, settings) | {
        "FAREGATE_SESSION_TIMEOUT_MS": str(SESSION_TIMEOUT_MS),
        "FAREGATE_LOG_FORMAT": "json",
    }


def _environment(
    kafka: str, database: str, prefix: str, settings: Mapping[str, Any]
) -> dict[str, str]:
    given = {PREFIX + name.upper(): _text(value) for name, value in settings.items()}
    return {
        **given,
        "FAREGATE_KAFKA": kafka,
        "FAREGATE_DATABASE": database,
        "FAREGATE_TOPIC_PREFIX": prefix,
        "FAREGATE_TEST_CLOCK": "1",
    }


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


@contextmanager
def _without_ours() -> Iterator[None]:
    """Hide the settings in our own environment: the processes do not see them either."""
    hidden = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith(PREFIX)}
    try:
        yield
    finally:
        os.environ.update(hidden)
