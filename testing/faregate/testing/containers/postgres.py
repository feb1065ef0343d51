"""PostgreSQL: testcontainers' own module, with what Faregate needs."""

from __future__ import annotations

import secrets
from typing import Any

from testcontainers.community.postgres import PostgresContainer as _PostgresContainer

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
        }
        super().__init__(image, **{**defaults, **options})
        bind(self, PORT)

    def get_inside_url(self) -> str:
        """Give the URL for other containers of its network."""
        return f"postgresql://{self.username}:{self.password}@{ALIAS}:{PORT}/{self.dbname}"
