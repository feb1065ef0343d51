"""What a fault of Kafka or PostgreSQL means to whoever runs a command: which server, named where.

A driver's error names an address at best. People set FAREGATE_KAFKA and FAREGATE_DATABASE, or have
an embedded stack, so that is what a message has to say.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator

import asyncpg
from aiokafka.errors import KafkaConnectionError, KafkaError

from faregate.consumers.checkpoints import CheckpointsUnreadable
from faregate.events import KafkaRefused, PublishFailed, TopicsFailed
from faregate.ledger.database import Unavailable
from faregate.runtime import servers
from faregate.runtime.servers import VARIABLES, Server, ServerMissing
from faregate.runtime.settings import PREFIX, Settings, SettingsError, label, load, without_password
from faregate.runtime.stack import StackError, default_home

_KAFKA = (KafkaError, TopicsFailed, PublishFailed, CheckpointsUnreadable)
_POSTGRESQL = (
    Unavailable,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)
_DRIVERS: dict[str, Server] = {"aiokafka": "Kafka", "asyncpg": "PostgreSQL"}
_UNREACHED = (
    KafkaConnectionError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    OSError,  # a TimeoutError is one
)


def server_of(error: BaseException) -> Server | None:
    """Tell which server a fault is of: by its type, else by the driver that it came through."""
    for one in _chain(error):
        if isinstance(one, _KAFKA):
            return "Kafka"
        if isinstance(one, _POSTGRESQL):
            return "PostgreSQL"
        for frame, _ in traceback.walk_tb(one.__traceback__):
            package = str(frame.f_globals.get("__name__")).partition(".")[0]
            if package in _DRIVERS:
                return _DRIVERS[package]
    return None


def told(error: BaseException) -> tuple[str, str] | None:
    """Say what is wrong with which server, and what to do; None if it is no server's fault."""
    server = server_of(error)
    if server is None:
        return None
    try:
        settings = load()
    except SettingsError:  # it was read before: somebody changed its file meanwhile
        return str(error), "repeat the command"
    return message(settings, server, error), fix(settings, server, error)


def message(settings: Settings, server: Server, error: BaseException) -> str:
    """Say in one line which server failed, where it is named, and how it failed."""
    address, origin = _place(settings, server)
    where = f"{server} at {address} ({origin})"
    if (refused := _refused(error)) is not None:
        return f"{where} is there, but does not let us in: {refused}"
    if isinstance(error, Unavailable | CheckpointsUnreadable | PublishFailed):
        return f"{where}: {error}"  # says more than what its cause says
    if _unreached(error):
        return f"{server} cannot be reached at {address} ({origin}): {reason(error)}"
    return f"{where}: {reason(error)}"


def fix(settings: Settings, server: Server, error: BaseException) -> str:
    """Say what to do about it."""
    name = _named_in(server)
    if (refused := _refused(error)) is not None:
        return _entrance(settings, refused)
    if isinstance(error, asyncpg.InvalidAuthorizationSpecificationError):
        return f"correct user and password in {name}"
    if isinstance(error, CheckpointsUnreadable) and "topics apply" in str(error):
        return "run: faregate topics apply"
    if not _unreached(error):
        return "try again; if it stays so, find out with: faregate doctor"
    if servers.named(settings, server) is None:
        return "start it again: faregate stack up"
    return (
        f"start that server, or correct {name}; or take it out and use the embedded stack, which "
        "`faregate stack up` starts"
    )


def _refused(error: BaseException) -> KafkaRefused | None:
    return next((one for one in _chain(error) if isinstance(one, KafkaRefused)), None)


def _entrance(settings: Settings, refused: KafkaRefused) -> str:
    """Say which settings let us into a Kafka that refused us."""
    if servers.named(settings, "Kafka") is None:
        return "see the log of that Kafka, and start it again: faregate stack up"
    protocol, mechanism = label("kafka_security_protocol"), label("kafka_sasl_mechanism")
    if refused.what == "login":
        login = f"{label('kafka_sasl_username')} and {label('kafka_sasl_password')}"
        return f"correct {login} (or {mechanism}, where its passwords are of another one)"
    if refused.what == "mechanism":
        return f"set {mechanism} to one that it takes: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512"
    if refused.what == "certificate":
        return (
            f"name the authority's certificate in {label('kafka_ca_file')}; or, where it is for "
            f"another name, write that in {label('kafka')}"
        )
    files = f"{label('kafka_cert_file')} and {label('kafka_key_file')}"
    return (
        f"set {protocol} to what it speaks at that port (PLAINTEXT, SSL, SASL_PLAINTEXT or "
        f"SASL_SSL), and {files} if it wants the certificate of a client"
    )


def reason(error: BaseException) -> str:
    """Say how a server failed, without the driver's own words for a plain case."""
    root = next((e for e in _chain(error) if isinstance(e, _UNREACHED)), error)
    if isinstance(root, KafkaConnectionError):
        return "no broker answers"
    if isinstance(root, OSError):
        known = root.errno is not None and root.errno > 0
        return os.strerror(root.errno or 0) if known else root.strerror or str(root) or "no answer"
    return str(root) or type(root).__name__


def _unreached(error: BaseException) -> bool:
    return any(isinstance(one, _UNREACHED) for one in _chain(error))


def _place(settings: Settings, server: Server) -> tuple[str, str]:
    """Give the address, without a password, and where it is set."""
    if (outside := servers.named(settings, server)) is not None:
        return without_password(outside), _named_in(server)
    home = settings.home or default_home()
    embedded = f"of the embedded stack in {home}"
    try:
        address = servers.kafka(settings) if server == "Kafka" else servers.database(settings)
    except (ServerMissing, StackError):
        return "its address", f"{embedded}, which is not running"
    return without_password(address), embedded


def _named_in(server: Server) -> str:
    """Name the setting as it was written: the variable, or the key in the TOML file."""
    variable = VARIABLES[server]
    return label(variable.removeprefix(PREFIX).lower())


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Give an error and what caused it."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__
