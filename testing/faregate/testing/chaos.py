"""`chaos`: real faults in real processes, and in the servers below them."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Literal, cast

import asyncpg
from aiokafka.errors import KafkaError

from faregate.consumers.kafka import Cluster
from faregate.consumers.topic_ids import describe
from faregate.ledger.failpoints import ENVIRONMENT_NAME
from faregate.testing.backends import CannotRestart, Server
from faregate.testing.installation import Installation
from faregate.testing.patience import patient
from faregate.testing.processes import wait_ended, wait_ready

CRASHES = {
    "db_decision": ("before_commit", "deduction"),
    "db_commit": ("after_commit", "deduction"),
    "kafka_send": ("before_send", "relay"),
    "kafka_ack": ("after_ack", "relay"),
}
"""By name: the place in the code (ledger/failpoints.py), and the process that is meant if none is
named. `db_decision` is after the decision was written and before it was committed; `kafka_send`
right before facts are handed to Kafka."""

CrashPoint = Literal["db_decision", "db_commit", "kafka_send", "kafka_ack"]
SERVERS = ("kafka", "postgres")
_ANSWERS_S, _POLL_S = 60.0, 0.1


class Chaos:
    """Faults for the installation of this test, whose processes are each one of their own.

    A process that was killed or has crashed stays away until `restart`.
    """

    def __init__(self, installation: Installation) -> None:
        self._installation = installation
        self._processes = installation.processes

    async def kill(self, name: str) -> None:
        """End a process with SIGKILL, and wait until it is gone."""
        self._known(name)
        self._processes.send(name, "kill")
        await wait_ended(self._processes, name, 10)

    async def pause(self, name: str) -> None:
        """Stop a process in its tracks (SIGSTOP; a container is frozen)."""
        self._known(name)
        self._processes.send(name, "pause")

    async def resume(self, name: str) -> None:
        """Let a paused process go on."""
        self._known(name)
        self._processes.send(name, "resume")

    async def crash_after(self, point: CrashPoint, process: str | None = None) -> str:
        """Have a process kill itself when it comes to this point. Gives the process's name.

        It is started again for that, and at work when this returns. `crashed` waits for the crash.
        """
        if point not in CRASHES:
            raise ValueError(f"there is no point {point!r}; there are: {', '.join(CRASHES)}")
        place, usual = CRASHES[point]
        name = process or usual
        await self._start_again(name, {ENVIRONMENT_NAME: place})
        return name

    async def crashed(self, name: str, within_s: float = 20.0) -> None:
        """Wait until a process has ended."""
        self._known(name)
        await wait_ended(self._processes, name, within_s)

    async def restart(self, name: str) -> None:
        """Start a process again (it is ended orderly if it runs), or `kafka` or `postgres`.

        A server that others use too is not restarted: mark the test with
        `@pytest.mark.faregate(own_servers=True)`. Raises CannotRestart.
        """
        if name in SERVERS:
            await self._restart_server(cast("Server", name))
        else:
            await self._start_again(name, None)

    async def _start_again(self, name: str, env: dict[str, str] | None) -> None:
        self._known(name)
        if self._processes.running(name):
            await self._processes.stop(name)
        self._processes.start(name, env)
        await wait_ready(self._processes, self._installation.prefix, name)

    async def _restart_server(self, server: Server) -> None:
        here = self._installation
        if here.shared_servers:
            raise CannotRestart(
                f"{server} is shared with other workers: mark this test with "
                "@pytest.mark.faregate(own_servers=True)"
            )
        await asyncio.to_thread(here.runner.restart, here.place, server)
        async with asyncio.timeout(patient(_ANSWERS_S)):
            await (_kafka_answers(here.kafka) if server == "kafka" else _answers(here.database))

    def _known(self, name: str) -> None:
        names = self._processes.names()
        if name not in names:
            raise ValueError(f"there is no process {name!r}; there are: {', '.join(names)}")


async def _kafka_answers(kafka: str) -> None:
    while True:
        with suppress(KafkaError, OSError):
            if (await describe(Cluster(kafka), [])).cluster:
                return
        await asyncio.sleep(_POLL_S)


async def _answers(database: str) -> None:
    while True:
        with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            connection = await asyncpg.connect(database, timeout=5)
            connection.terminate()
            return
        await asyncio.sleep(_POLL_S)
