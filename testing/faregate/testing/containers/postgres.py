"""PostgreSQL: testcontainers' own module, with what Faregate needs."""

from __future__ import annotations

import secrets
from typing import Any

from testcontainers.community.postgres import PostgresContainer as _PostgresContainer

from faregate.testing.containers.engine import Ready, client_options, succeeds
from faregate.testing.containers.ports import bind

IMAGE = "postgres:18"
ALIAS = "postgres"
PORT = 5432
NAME = "faregate"


class PostgresContainer(_PostgresContainer):
    """A server with a database `faregate`, whose owner is its administrator."""

    def __init__(self, image: str = IMAGE, **options: Any) -> None:
        """`options` go to testcontainers' PostgresContainer."""
        defaults = {
            "username": NAME,
            "password": secrets.token_urlsafe(18),
            "dbname": NAME,
            "driver": None,
            "network_aliases": [ALIAS],
            "docker_client_kw": client_options(),
        }
        super().__init__(image, **{**defaults, **options})
        bind(self, PORT)

    def get_inside_url(self) -> str:
        """Give the URL for other containers of its network."""
        return f"postgresql://{self.username}:{self.password}@{ALIAS}:{PORT}/{self.dbname}"

    def _connect(self) -> None:
        """Wait until it serves its database. While it is made it listens at its socket only."""
        asked = ("psql", "--host=127.0.0.1", f"--username={self.username}", "--command=SELECT 1")
        say = ("env", f"PGPASSWORD={self.password}", "PGCONNECT_TIMEOUT=5", *asked, self.dbname)
        Ready("PostgreSQL", lambda _: succeeds(self, *say)).wait_until_ready(self)
