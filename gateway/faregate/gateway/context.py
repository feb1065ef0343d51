"""What every resource works with: one object per process, found by `gateway_of(request)`."""

from __future__ import annotations

from asyncio import Semaphore
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from starlette.requests import Request

from faregate.gateway.dead_letters import DeadLetters
from faregate.gateway.group import GroupedStore
from faregate.gateway.holders import Holders
from faregate.gateway.identity.embedded import Embedded
from faregate.gateway.identity.oidc import Issuer
from faregate.gateway.identity.outside import OutsideUsers
from faregate.gateway.identity.tokens import Verifier
from faregate.gateway.identity.users import Users
from faregate.gateway.membership import Memberships
from faregate.gateway.metrics import Metrics
from faregate.gateway.settings import GatewaySettings
from faregate.gateway.together import Together
from faregate.ledger.core.posting import Work
from faregate.ledger.snapshot import Asked

if TYPE_CHECKING:
    from faregate.gateway.lago.service import Lago
    from faregate.gateway.llm.service import Llm

VIA = "faregate/gateway"
"""The source of commands that come over HTTP."""

Probe = Callable[[], Awaitable[Mapping[str, Any]]]
"""Asks the servers: gives `{"kafka": ..., "database": ..., "lag": ...}`, each `{"ok": bool, ...}`.

`lag` has how many records each consumer has still to read, `database` how many transactions wait
for the relay (`outbox`) and holds for the sweeper (`overdue_holds`)."""

FraudCases = Callable[[], Awaitable[Mapping[str, dict[str, Any]]]]
"""Reads the suspicions of fraud that are in Kafka, by case. Raises OSError when it is away."""


@dataclass(slots=True)
class Gateway:
    """The parts of one gateway process. `embedded` is None when an outside issuer is set."""

    settings: GatewaySettings
    store: GroupedStore
    users: Users
    outside: OutsideUsers
    memberships: Memberships
    holders: Holders
    snapshots: Together[Asked, Work]
    """Accounts as a decision would find them, for who only asks."""
    verifier: Verifier
    embedded: Embedded | None
    issuer: Issuer | None
    metrics: Metrics
    probe: Probe
    fraud_cases: FraudCases
    llm: Llm
    lago: Lago
    dead_letters: DeadLetters | None = None
    """None where no Kafka is known."""
    replaying: Semaphore = field(default_factory=lambda: Semaphore(2))
    """So many replays of dead letters with a key keep a connection each while Kafka is asked."""


def gateway_of(request: Request) -> Gateway:
    """Give the gateway that answers a request."""
    gateway: Gateway = request.app.state.gateway
    return gateway
