"""The back end `testcontainers`: servers and each of Faregate's processes as containers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docker.errors import APIError, NotFound
from testcontainers.core.network import Network

from faregate.testing.backends import Server
from faregate.testing.choosing import BackEnd
from faregate.testing.containers.engine import client_options, make_client
from faregate.testing.containers.faregate import FaregateContainer, ImageNotBuilt, ensure_image
from faregate.testing.containers.stack import ServersStack
from faregate.testing.places import Place
from faregate.testing.processes import Processes, Signal

_STOP_S = 10
_TAIL_LINES = 60


@dataclass
class Containers:
    """Starts containers. `image` and `wheel` say what Faregate's are made of."""

    image: str | None = None
    wheel: str | None = None
    name: BackEnd = "testcontainers"
    _made: str | ImageNotBuilt | None = None

    def start(self) -> tuple[Place, Callable[[], None]]:
        """Start Kafka and PostgreSQL in a network of their own."""
        servers = ServersStack()
        servers.__enter__()
        place = Place(
            servers.kafka_bootstrap,
            servers.database_url,
            servers.kafka.get_inside_server(),
            servers.postgres.get_inside_url(),
            network=servers.network.name,
            kafka_container=servers.kafka.get_container_id(),
            postgres_container=servers.postgres.get_container_id(),
        )
        return place, lambda: servers.__exit__(None, None, None)

    def processes(
        self,
        place: Place,
        env: Mapping[str, str],
        logs: Path,  # noqa: ARG002 - the engine keeps them
    ) -> Processes:
        """Give what starts containers of Faregate in the servers' network."""
        return ContainerProcesses(self._ready_image(), place.network, dict(env))

    def restart(self, place: Place, server: Server) -> None:
        """Restart a server's container: its data and port stay."""
        ids = {"kafka": place.kafka_container, "postgres": place.postgres_container}
        with _engine() as engine:
            engine.containers.get(ids[server]).restart(timeout=_STOP_S)

    def server_logs(self, place: Place) -> dict[str, str]:
        """Read the ends of both logs."""
        ids = {"kafka": place.kafka_container, "postgres": place.postgres_container}
        with _engine() as engine:
            return {name: _tail(engine, id_) for name, id_ in ids.items()}

    def _ready_image(self) -> str:
        """Build it once: where that fails, the next test would wait for the same."""
        if isinstance(self._made, ImageNotBuilt):
            raise self._made
        if self._made is None:
            try:
                self._made = ensure_image(self.image, self.wheel)
            except ImageNotBuilt as error:
                self._made = error
                raise
        return self._made


@contextmanager
def _engine() -> Iterator[Any]:
    client = make_client()
    try:
        yield client
    finally:
        client.close()


def _tail(engine: Any, id_: str) -> str:
    try:
        text: bytes = engine.containers.get(id_).logs(tail=_TAIL_LINES)
    except APIError as error:
        return str(error)
    return text.decode(errors="replace")


class ContainerProcesses:
    """Faregate's processes, each start of one in a new container."""

    def __init__(self, image: str, network: str, env: dict[str, str]) -> None:
        self._image = image
        self._env = env
        self._network = Network(client_options())
        self._network.name = network  # it exists: the servers are in it
        self._containers: dict[str, FaregateContainer] = {}

    def start(self, name: str, env: Mapping[str, str] | None = None) -> None:
        """Start it; `env` goes over the common environment for this start only."""
        self._remove(name)
        merged = self._env | dict(env or {})
        container = FaregateContainer(self._image, name, env=merged, network=self._network)
        self._containers[name] = container
        container.launch()

    def send(self, name: str, what: Signal) -> None:
        """Kill or freeze its container, or let it go on."""
        container = self._containers[name].get_wrapped_container()
        if what == "kill":
            container.kill("KILL")
        elif what == "pause":
            container.pause()
        else:
            container.unpause()

    def running(self, name: str) -> bool:
        """Tell whether it has not ended."""
        container = self._containers[name]
        container.reload()
        return container.status in {"created", "running", "paused", "restarting"}

    def log(self, name: str) -> str:
        """Give what it has logged since its newest start."""
        return self._containers[name].log()

    def names(self) -> list[str]:
        """Name what was ever started."""
        return list(self._containers)

    async def stop(self, *names: str) -> None:
        """End each (all, if none is named) orderly; all at once, and with none left remove them."""
        chosen = names or tuple(self._containers)
        with ThreadPoolExecutor(max(1, len(chosen))) as pool:
            for done in [pool.submit(self._end, name) for name in chosen]:
                done.result()
        if not names:
            for name in chosen:
                self._remove(name)

    def _end(self, name: str) -> None:
        container = self._containers[name].get_wrapped_container()
        with suppress(APIError):  # it was not paused
            container.unpause()
        container.stop(timeout=_STOP_S)

    def _remove(self, name: str) -> None:
        container = self._containers.pop(name, None)
        if container is not None:
            with suppress(NotFound):
                container.stop()
