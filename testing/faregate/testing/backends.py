"""What runs the servers and Faregate's processes: embedded, external, or containers."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from faregate.runtime import stack
from faregate.testing.choosing import BackEnd
from faregate.testing.places import Place
from faregate.testing.processes import Children, Processes

Server = Literal["kafka", "postgres"]


class CannotRestart(Exception):
    """The servers are not ours, or not this test's alone; the message says what to do."""


class Runner(Protocol):
    """One kind of back end."""

    @property
    def name(self) -> BackEnd:
        """What it is called."""

    def start(self) -> tuple[Place, Callable[[], None]]:
        """Start servers; give where they are, and what ends them."""

    def processes(self, place: Place, env: Mapping[str, str], logs: Path) -> Processes:
        """Give what starts Faregate's processes at these servers."""

    def restart(self, place: Place, server: Server) -> None:
        """Stop a server and start it again on the same data and port. Raises CannotRestart."""

    def server_logs(self, place: Place) -> dict[str, str]:
        """Give the ends of the servers' logs, as far as they are ours."""


@dataclass(frozen=True, slots=True)
class Embedded:
    """Kafka and PostgreSQL from packages, in a temporary directory."""

    name: BackEnd = "embedded"

    def start(self) -> tuple[Place, Callable[[], None]]:
        """Start both; nothing is left of them afterwards."""
        resources = ExitStack()
        info = resources.enter_context(stack.running())
        place = Place(info.kafka, info.database, info.kafka, info.database, home=str(info.home))
        return place, resources.close

    def processes(self, place: Place, env: Mapping[str, str], logs: Path) -> Processes:  # noqa: ARG002 - the protocol's
        """Give our children."""
        return Children(env, logs)

    def restart(self, place: Place, server: Server) -> None:
        """Restart a server of the embedded stack."""
        info = stack.status(Path(place.home))
        if info is None:
            raise CannotRestart(f"the embedded stack in {place.home} is not running")
        if server == "kafka":
            stack.restart_kafka(info)
        else:
            stack.restart_postgres(info)

    def server_logs(self, place: Place) -> dict[str, str]:
        """Read the ends of both logs."""
        info = stack.status(Path(place.home))
        return {name: _end_of(path) for name, path in info.logs.items()} if info else {}


@dataclass(frozen=True, slots=True)
class External:
    """Servers that run elsewhere: databases and topics of our own, and processes, but no more."""

    name: BackEnd = "external"

    def start(self) -> tuple[Place, Callable[[], None]]:
        """Give the servers that FAREGATE_KAFKA and FAREGATE_DATABASE name."""
        kafka, database = os.environ["FAREGATE_KAFKA"], os.environ["FAREGATE_DATABASE"]
        return Place(kafka, database, kafka, database), lambda: None

    def processes(self, place: Place, env: Mapping[str, str], logs: Path) -> Processes:  # noqa: ARG002 - the protocol's
        """Give our children."""
        return Children(env, logs)

    def restart(self, place: Place, server: Server) -> None:  # noqa: ARG002 - the protocol's
        """Refuse."""
        raise CannotRestart(
            f"{server} runs elsewhere, so a test cannot restart it: use "
            "--faregate-stack=embedded or testcontainers"
        )

    def server_logs(self, place: Place) -> dict[str, str]:  # noqa: ARG002 - the protocol's
        """Give none: they are elsewhere."""
        return {}


def runner(name: BackEnd, *, image: str | None = None, wheel: str | None = None) -> Runner:
    """Make the back end. `image` and `wheel` say what Faregate's containers are made of."""
    if name == "testcontainers":
        from faregate.testing.containers.backend import Containers

        return Containers(image, wheel)
    return Embedded() if name == "embedded" else External()


def _end_of(path: Path, size: int = 8_192) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - size))
            return file.read().decode(errors="replace")
    except OSError:
        return ""
