"""Everything together: a network, Kafka, PostgreSQL, and Faregate at work in it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from testcontainers.core.network import Network

from faregate.events import apply_topics
from faregate.ledger.migrate import migrate
from faregate.testing.containers.engine import client_options, log_of
from faregate.testing.containers.faregate import FaregateContainer, ensure_image
from faregate.testing.containers.kafka import KafkaContainer
from faregate.testing.containers.postgres import PostgresContainer


class ServersStack:
    """Kafka and PostgreSQL in a network of their own; a context manager."""

    def __init__(
        self, kafka: KafkaContainer | None = None, postgres: PostgresContainer | None = None
    ) -> None:
        """Take other containers in place of the default ones; none of them started yet."""
        self.network = Network(client_options())
        self.kafka = kafka or KafkaContainer()
        self.postgres = postgres or PostgresContainer()
        self._resources = ExitStack()

    def __enter__(self) -> Self:
        """Start them."""
        with ExitStack() as resources:
            resources.enter_context(self.network)
            servers = (self.kafka, self.postgres)
            for server in servers:
                server.with_network(self.network)
                resources.callback(server.stop)
            with ThreadPoolExecutor(len(servers)) as pool:
                for started in [pool.submit(server.start) for server in servers]:
                    started.result()
            self._resources = resources.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Remove everything."""
        self._resources.close()

    @property
    def kafka_bootstrap(self) -> str:
        """Where Kafka is for the tests: `host:port`."""
        return self.kafka.get_bootstrap_server()

    @property
    def database_url(self) -> str:
        """Where the database is for the tests: the URL of its owner."""
        return self.postgres.get_connection_url()


class FaregateStack(ServersStack):
    """Kafka, PostgreSQL and Faregate; a context manager. Its topics have no prefix.

    `settings` are those of the product by their variables: {"FAREGATE_PROVISIONING": "manual"}.
    `image` names the image of Faregate; where there is none it is built, from `wheel` or the
    installed version.
    """

    def __init__(
        self,
        image: str | None = None,
        *,
        wheel: str | None = None,
        settings: Mapping[str, str] | None = None,
        kafka: KafkaContainer | None = None,
        postgres: PostgresContainer | None = None,
    ) -> None:
        super().__init__(kafka, postgres)
        self._image, self._wheel = image, wheel
        self._settings = dict(settings or {})
        self.faregate: FaregateContainer | None = None

    def __enter__(self) -> Self:
        """Start everything; Faregate is at work when this returns."""
        image = ensure_image(self._image, self._wheel)
        super().__enter__()
        try:
            asyncio.run(_prepare(self.database_url, self.kafka_bootstrap))
            env = {
                **self._settings,
                "FAREGATE_KAFKA": self.kafka.get_inside_server(),
                "FAREGATE_DATABASE": self.postgres.get_inside_url(),
            }
            self.faregate = FaregateContainer(image, env=env, network=self.network)
            self._resources.enter_context(self.faregate)
        except BaseException:
            self._resources.close()
            raise
        return self

    def logs(self) -> dict[str, str]:
        """Give all logs, by what wrote them."""
        found = {"kafka": self.kafka, "postgres": self.postgres, "faregate": self.faregate}
        return {name: log_of(c) for name, c in found.items() if c}


async def _prepare(database: str, kafka: str) -> None:
    await asyncio.gather(migrate(database), apply_topics(kafka))
