"""Keys of an OpenID Connect issuer, by discovery and JWKS. Nothing here trusts a token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx
import structlog

from faregate.gateway.identity.keyring import Key, KeysUnavailable, public_keys

log = structlog.get_logger("faregate.gateway")

_TIMEOUT_S = 5.0
_MAX_BYTES = 1_048_576


class IssuerUnavailable(KeysUnavailable):
    """The issuer does not answer, or not as an issuer does."""


class Issuer:
    """One issuer, by its URL."""

    def __init__(self, url: str, client: httpx.AsyncClient | None = None) -> None:
        self.url = url
        self._client = client or httpx.AsyncClient(timeout=_TIMEOUT_S, follow_redirects=False)

    async def keys(self) -> Mapping[str, Key]:
        """Fetch the issuer's public keys. Raises IssuerUnavailable."""
        place = f"{self.url.rstrip('/')}/.well-known/openid-configuration"
        found = await self._read(place)
        if found.get("issuer") != self.url:
            raise IssuerUnavailable("the discovery document is that of another issuer")
        address = found.get("jwks_uri")
        if not isinstance(address, str) or not address.startswith(("https://", "http://")):
            raise IssuerUnavailable("the discovery document has no jwks_uri")
        keys = public_keys(await self._read(address))
        log.debug("oidc_keys", issuer=self.url, keys=len(keys))
        return keys

    async def close(self) -> None:
        """Close connections."""
        await self._client.aclose()

    async def _read(self, address: str) -> dict[str, Any]:
        try:
            answer = await self._client.get(address)
            answer.raise_for_status()
            value = answer.json() if len(answer.content) <= _MAX_BYTES else None
        except (httpx.HTTPError, ValueError) as error:
            raise IssuerUnavailable(f"{address}: {type(error).__name__}") from error
        if not isinstance(value, dict):
            raise IssuerUnavailable(f"{address}: not a JSON object")
        return value
