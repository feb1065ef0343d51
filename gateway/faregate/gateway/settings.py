"""What can be set about the gateway. The runtime fills it from `FAREGATE_*`."""

from __future__ import annotations

from dataclasses import dataclass, field

from pydantic import SecretStr

from faregate.gateway.lago.settings import LagoSettings
from faregate.gateway.llm.settings import LlmSettings

READ, SPEND, MANAGE, ADMIN = (
    "faregate:read",
    "faregate:spend",
    "faregate:manage",
    "faregate:admin",
)
"""Scopes: read one's own and one's orgs' accounts; spend credits; run orgs; everything."""

USER_SCOPES = frozenset({READ, SPEND, MANAGE})
"""What a token without any `faregate:` scope may do."""


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """All settings of one gateway process. Times are seconds, sizes bytes."""

    host: str = "127.0.0.1"
    port: int = 8080
    listener_fd: int | None = None
    """A listening socket that was inherited, instead of one at host and port."""
    version: str = "0"
    docs: bool = False
    """Whether /docs and /openapi.json are served."""
    cors_origins: tuple[str, ...] = ()
    oidc_issuer: str | None = None
    """An OpenID Connect issuer; with one the embedded identity is off."""
    oidc_audience: str | None = None
    oidc_keys_s: float = 300.0
    """A key that the issuer has withdrawn is refused after so long at the latest."""
    identity_webhook_secret: SecretStr | None = None
    """What the identity provider signs its events with; None: there is no webhook."""
    token_ttl_s: int = 3600
    """How long a token of the embedded identity is valid."""
    sign_ins_per_minute: int = 10
    """Failed sign-ins per e-mail address and minute; 30 times as many per network address."""
    trusted_proxies: str = ""
    """Addresses whose X-Forwarded-For is believed, separated by commas."""
    max_body: int = 1_048_576
    max_depth: int = 32
    """How deep JSON may be nested."""
    self_purchase: bool = True
    """Whether admins of an org may book purchases for it; else only platform admins may."""
    timeout_s: float = 30.0
    head_timeout_s: float = 10.0
    """The request line and headers must have come by then."""
    max_connections: int = 2_000
    """So many may be open at once; more are answered 503."""
    linger_s: float = 0.002
    """How long the first call of a batch waits for others to share its transaction, while another
    transaction is under way."""
    enough: int = 16
    """So many commands are worth a transaction beside another one; fewer wait for its end."""
    lanes: int = 2
    """How many transactions of the queue begin beside each other, ..."""
    most_lanes: int = 6
    """... and how many there may be with those that wait for an account. Each has a connection."""
    patience_s: float = 0.05
    """A transaction that takes longer is counted as one that waits for an account, so that another
    begins in its place."""
    max_batch: int = 250
    max_waiting: int = 2_000
    """So many calls may wait for a transaction; more are answered 503."""
    max_waiting_about_one: int = 1_000
    """So many of them may name the same account, so that its backlog leaves room for others."""
    llm: LlmSettings = field(default_factory=LlmSettings)
    """The LLM proxy and users' own keys."""
    lago: LagoSettings = field(default_factory=LagoSettings)
    """Lago: its webhooks, and its API."""
