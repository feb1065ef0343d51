"""Which Kafka and PostgreSQL: outside ones from the settings, else the embedded stack."""

from __future__ import annotations

from dataclasses import dataclass

from faregate.runtime import stack
from faregate.runtime.settings import Settings


class ServerMissing(Exception):
    """A server that is needed is not there; the message says how to get it. Exit code 3."""


@dataclass(frozen=True, slots=True)
class Servers:
    """Where the two servers are. `database` holds a password: never log it."""

    kafka: str
    database: str


def find(settings: Settings) -> Servers:
    """Give the servers in force. Raises ServerMissing when there is neither kind."""
    kafka = settings.kafka
    database = settings.database.get_secret_value() if settings.database else None
    if not (kafka and database):
        info = stack.status(settings.home or stack.default_home())
        kafka = kafka or (info.kafka if info else None)
        database = database or (info.database if info else None)
    missing = [n for n, v in (("Kafka", kafka), ("PostgreSQL", database)) if not v]
    if not kafka or not database:
        raise ServerMissing(
            f"no {' and no '.join(missing)}: start the embedded stack with `faregate stack up`, "
            "or set FAREGATE_KAFKA and FAREGATE_DATABASE"
        )
    return Servers(kafka, database)
