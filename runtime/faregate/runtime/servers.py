"""Which Kafka and PostgreSQL: outside ones from the settings, else the embedded stack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from faregate.runtime import stack
from faregate.runtime.settings import Settings
from faregate.runtime.stack import StackInfo

Server = Literal["Kafka", "PostgreSQL"]

VARIABLES: dict[Server, str] = {"Kafka": "FAREGATE_KAFKA", "PostgreSQL": "FAREGATE_DATABASE"}
"""The setting that names a server outside of the embedded stack."""

_LOGS: dict[Server, str] = {"Kafka": "kafka", "PostgreSQL": "postgres"}


class ServerMissing(Exception):
    """A server, or a topic in it, that is needed is not there. `fix` says how to get it: exit 3."""

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message)
        self.fix = fix


@dataclass(frozen=True, slots=True)
class Servers:
    """Where the two servers are. `database` holds a password: never log it."""

    kafka: str
    database: str


def find(settings: Settings) -> Servers:
    """Give the servers in force. Raises ServerMissing when there is neither kind."""
    kafka_, database_ = _needed(settings, "Kafka", "PostgreSQL")
    return Servers(kafka_, database_)


def kafka(settings: Settings) -> str:
    """Give the Kafka in force, also where no PostgreSQL is. Raises ServerMissing."""
    return _needed(settings, "Kafka")[0]


def database(settings: Settings) -> str:
    """Give the database in force, also where no Kafka is. Raises ServerMissing."""
    return _needed(settings, "PostgreSQL")[0]


def named(settings: Settings, server: Server) -> str | None:
    """Give the address of a server that a setting names."""
    if server == "Kafka":
        return settings.kafka or None
    return settings.database.get_secret_value() if settings.database else None


def no_topic(*topics: str) -> ServerMissing:
    """Give the fault of topics that do not exist."""
    what = f"topic {topics[0]}" if len(topics) == 1 else f"topics {', '.join(topics)}"
    return ServerMissing(f"there is no {what}", "run: faregate topics apply")


def _needed(settings: Settings, *wanted: Server) -> list[str]:
    found = {server: named(settings, server) for server in wanted}
    info = None
    if not all(found.values()):
        info = stack.status(settings.home or stack.default_home())
        found = {server: found[server] or _embedded(info, server) for server in wanted}
    if missing := [server for server in wanted if not found[server]]:
        raise _missing(settings, missing, info)
    return [str(found[server]) for server in wanted]


def _embedded(info: StackInfo | None, server: Server) -> str | None:
    """Give the address of an embedded server; one that has ended has none."""
    if info is None:
        return None
    if server == "Kafka":
        return info.kafka if info.kafka_alive else None
    return info.database if info.postgres_alive else None


def _missing(settings: Settings, missing: list[Server], info: StackInfo | None) -> ServerMissing:
    variables = " and ".join(VARIABLES[server] for server in missing)
    unset = f"{variables} {'is' if len(missing) == 1 else 'are'} not set"
    home = settings.home or stack.default_home()
    embedded = f"the embedded stack in {home} is not running"
    if info is not None:
        ended = " and ".join(f"{server}, see {info.logs[_LOGS[server]]}" for server in missing)
        embedded = f"in the embedded stack what has ended is: {ended}"
    servers = f"{'a server' if len(missing) == 1 else 'servers'} of your own"
    return ServerMissing(
        f"no {' and no '.join(missing)}: {unset}, and {embedded}",
        f"start the embedded stack with `faregate stack up`, or set {variables} to {servers}",
    )
