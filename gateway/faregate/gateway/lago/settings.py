"""What can be set about Lago. Secrets never show in a repr."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from pydantic import SecretStr

MICRO = 1_000_000


@dataclass(frozen=True, slots=True)
class LagoSettings:
    """Settings of one installation of Lago. Times are seconds."""

    signature: Literal["hmac", "jwt"] = "hmac"
    """How webhooks must be signed; what a webhook says about that itself decides nothing."""
    hmac_key: SecretStr | None = None
    """The organization's HMAC signature token; for `hmac`."""
    public_key: str | None = None
    """The public key of the Lago installation, as PEM; for `jwt`."""
    organization: str | None = None
    """Lago's id of our organization. `jwt` needs it: all of Lago's organizations share one key."""
    issuer: str = "https://api.getlago.com"
    """What the signature says where Lago is (its LAGO_API_URL); for `jwt`."""
    api_url: str = "https://api.getlago.com"
    api_key: SecretStr | None = None
    """With one, whoever registers becomes a customer in Lago."""
    plans: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """The tier of a plan, by its code; a plan that is not in here is the tier of its name."""
    ended_tier: str = "free"
    """The tier of who has no subscription any more."""
    add_ons: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """What one unit of an add-on buys, in micro-credits, by the add-on's code."""
    wallet_credit_micro: int = MICRO
    """What one credit of a Lago wallet is, in micro-credits."""
    unknown_customer: Literal["refuse", "user", "org"] = "refuse"
    """What an external id without `user:` or `org:` means that is neither's id so far."""
    api_timeout_s: float = 5.0
    retry_s: float = 10.0
    """How long a customer that could not be made waits for the second try; then twice as long."""

    @property
    def takes_webhooks(self) -> bool:
        """Whether there is something to check signatures by."""
        if self.signature == "hmac":
            return self.hmac_key is not None
        return self.public_key is not None and self.organization is not None

    def tier_of(self, plan_code: str) -> str:
        """Give the tier of a plan; empty for one that has none."""
        return self.plans.get(plan_code, plan_code)
