"""One gateway process: its parts, made from a store and settings, and the server in front."""

from __future__ import annotations

import socket
from functools import partial
from typing import NoReturn

import structlog
import uvicorn

from faregate.gateway.app import create_app
from faregate.gateway.connections import bounded
from faregate.gateway.context import FraudCases, Gateway, Probe
from faregate.gateway.dead_letters import DeadLetters
from faregate.gateway.group import GroupedStore
from faregate.gateway.holders import Holders
from faregate.gateway.identity.embedded import Embedded
from faregate.gateway.identity.keyring import Keyring
from faregate.gateway.identity.oidc import Issuer
from faregate.gateway.identity.outside import OutsideUsers
from faregate.gateway.identity.tokens import ALGORITHMS, SKEW_S, Expected, Verifier
from faregate.gateway.identity.users import Users
from faregate.gateway.lago.service import Lago
from faregate.gateway.llm.service import Llm
from faregate.gateway.membership import Memberships
from faregate.gateway.metrics import Metrics
from faregate.gateway.settings import GatewaySettings
from faregate.gateway.together import Together
from faregate.ledger.snapshot import snapshots
from faregate.ledger.store import Store

log = structlog.get_logger("faregate.gateway")

_KEEP_ALIVE_S = 30
_DRAIN_S = 6
"""For answers under way; then streams are cut and charged, within what is left of ten seconds."""
_BACKLOG = 2048


async def _no_kafka() -> NoReturn:
    raise ConnectionError("this gateway was given no Kafka")


def make_gateway(
    store: Store,
    settings: GatewaySettings,
    probe: Probe,
    dead_letters: DeadLetters | None = None,
    fraud_cases: FraudCases = _no_kafka,
) -> Gateway:
    """Put the parts together. Raises ValueError for settings that do not go together."""
    metrics = Metrics()
    grouped = GroupedStore(store, settings, metrics)
    users = Users(store.pool)
    embedded, issuer = None, None
    if settings.oidc_issuer is None:
        embedded = Embedded(store.pool, users, settings, metrics)
        verifier = Verifier(embedded.keyring(), embedded.expected(), metrics)
    else:
        if not settings.oidc_audience:
            raise ValueError("with an OpenID Connect issuer an audience must be set")
        issuer = Issuer(settings.oidc_issuer)
        expected = Expected(settings.oidc_issuer, settings.oidc_audience, ALGORITHMS, SKEW_S)
        keyring = Keyring(issuer.keys, max_age_s=settings.oidc_keys_s)
        verifier = Verifier(keyring, expected, metrics)
    return Gateway(
        settings=settings,
        store=grouped,
        users=users,
        outside=OutsideUsers(store.pool, store.keys),
        memberships=Memberships(store.pool),
        holders=Holders(store.pool),
        snapshots=Together(partial(snapshots, grouped)),
        verifier=verifier,
        embedded=embedded,
        issuer=issuer,
        metrics=metrics,
        probe=probe,
        fraud_cases=fraud_cases,
        llm=Llm(store.pool, settings.llm),
        lago=Lago(grouped, settings.lago, metrics),
        dead_letters=dead_letters,
    )


class GatewayProcess:
    """Serves a gateway until it is stopped; what was taken in is finished first."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        settings = gateway.settings
        self._socket = listening(settings.host, settings.port, settings.listener_fd)
        self.port: int = self._socket.getsockname()[1]
        config = uvicorn.Config(
            create_app(gateway),
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=_DRAIN_S,
            http=bounded(settings),
            proxy_headers=bool(settings.trusted_proxies),
            forwarded_allow_ips=settings.trusted_proxies or None,
            ws="none",
        )
        self._server = uvicorn.Server(config)

    def stop(self) -> None:
        """Finish what is in hand, then return from `run`."""
        self._server.should_exit = True

    async def run(self) -> None:
        """Serve until `stop`."""
        self._gateway.llm.wake()
        log.info("gateway_started", host=self._gateway.settings.host, port=self.port)
        self._gateway.lago.customers.wake()
        await self._server._serve([self._socket])  # noqa: SLF001 - without its signal handlers
        await self._gateway.llm.close()
        await self._gateway.lago.close()
        await self._gateway.store.close()
        if self._gateway.issuer is not None:
            await self._gateway.issuer.close()


def listening(
    host: str, port: int, inherited_fd: int | None = None, *, shared: bool = False
) -> socket.socket:
    """Take the port now, so that a taken one is said at the start. Raises OSError.

    `shared`: others may listen on it as well; the kernel spreads connections over them.
    """
    if inherited_fd is not None:
        listener = socket.socket(fileno=inherited_fd)
    else:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            listener.bind((host, port))
            listener.listen(_BACKLOG)  # whoever reads that it has started can connect
        except OSError:
            listener.close()
            raise
    listener.setblocking(False)  # noqa: FBT003
    return listener
