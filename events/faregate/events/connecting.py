"""Starts clients of Kafka, and tells a broker that refuses them from one that is away.

aiokafka says the same of both: it logs what happened at each address, and raises that none of them
answered. So an address that fails is asked once more, for the reason.
"""

import asyncio
import errno
import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal

from aiokafka.conn import collect_hosts, create_conn
from aiokafka.errors import (
    AuthenticationFailedError,
    IllegalSaslStateError,
    KafkaConnectionError,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)
from aiokafka.protocol.metadata import MetadataRequest

Refusal = Literal["login", "mechanism", "certificate", "protocol"]

_PATIENCE_S = 5.0
_CONNECTION = (
    "security_protocol",
    "ssl_context",
    "sasl_mechanism",
    "sasl_plain_username",
    "sasl_plain_password",
    "sasl_oauth_token_provider",
    "sasl_kerberos_service_name",
    "sasl_kerberos_domain_name",
)


class KafkaRefused(KafkaConnectionError):  # type: ignore[misc]
    """A broker is there and does not let us in; the message says why.

    `what` it refuses: the user or password ("login"), the "mechanism" of SASL; "certificate": we do
    not trust its own; "protocol": it ends the connection, as one does that expects TLS or SASL (or
    none), or the certificate of a client.
    """

    def __init__(self, what: Refusal, message: str) -> None:
        super().__init__(message)
        self.what = what
        self.message = message

    def __str__(self) -> str:
        return self.message


async def start(
    connect: Callable[[], Awaitable[object]],
    bootstrap: str,
    kafka: Mapping[str, Any] | None = None,
) -> None:
    """Call `connect`, the start of a client of the cluster at `bootstrap` made with `kafka`.

    Raises KafkaRefused where a broker answers and does not let it in, else aiokafka's errors.
    """
    try:
        await connect()
    except KafkaConnectionError as error:
        if (refused := await refusal(bootstrap, kafka)) is not None:
            raise refused from error
        raise


async def refusal(bootstrap: str, kafka: Mapping[str, Any] | None = None) -> KafkaRefused | None:
    """Say why the brokers at `bootstrap` refuse us; None where none does, or none is there."""
    options = {name: value for name, value in (kafka or {}).items() if name in _CONNECTION}
    try:
        async with asyncio.timeout(_PATIENCE_S):
            for host, port, _ in collect_hosts(bootstrap):
                refused = await _refusal_of(host, port, options)
                if refused is not None:
                    return refused
    except TimeoutError:
        pass
    return None


async def _refusal_of(host: str, port: int, options: Mapping[str, Any]) -> KafkaRefused | None:
    try:
        connection = await create_conn(host, port, **options)
        try:
            await connection.send(MetadataRequest([]))
        finally:
            connection.close()
    except (OSError, KafkaError) as error:
        return _told(error, f"{host}:{port}", options)
    return None


def _told(error: Exception, place: str, options: Mapping[str, Any]) -> KafkaRefused | None:
    mechanism = options.get("sasl_mechanism", "PLAIN")
    if isinstance(error, ssl.SSLCertVerificationError):
        why = error.verify_message.rstrip(".")
        return KafkaRefused("certificate", f"the certificate of {place} is not trusted: {why}")
    if isinstance(error, SaslAuthenticationFailed | AuthenticationFailedError):
        user = options.get("sasl_plain_username")
        why = f"{place} refuses user {user!r} with this password ({mechanism})"
        return KafkaRefused("login", why)
    if isinstance(error, UnsupportedSaslMechanismError):
        return KafkaRefused("mechanism", f"{place} does not take {mechanism}")
    foreign = _foreign(error, options.get("security_protocol", "PLAINTEXT"))
    return KafkaRefused("protocol", f"{place} {foreign}") if foreign else None


def _foreign(error: Exception, protocol: str) -> str | None:
    """Say what a broker does that expects something else; None where there may be no broker."""
    if isinstance(error, IllegalSaslStateError):
        return f"has no SASL, and we speak {protocol}"
    if isinstance(error, ssl.SSLError):
        why = (error.reason or str(error)).replace("_", " ").lower()
        return f"does not agree with us about TLS: {why}"
    if _hung_up(error):
        wants = ", or it wants the certificate of a client" if protocol.endswith("SSL") else ""
        return f"ends the connection: it may not speak {protocol} at this port{wants}, or it is still starting"
    return None


def _hung_up(error: Exception) -> bool:
    """Tell whether somebody took the connection and ended it."""
    if isinstance(error, OSError):
        return error.errno in (errno.ECONNRESET, errno.EPIPE) or (
            error.errno is None and isinstance(error, ConnectionError)
        )
    return isinstance(error, KafkaConnectionError)
