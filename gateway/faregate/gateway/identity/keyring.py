"""Public keys by `kid`: fetched once, and again for an unknown one, but not more often than allowed.

The `kid` of a token is a look-up key and nothing else; no key, and no address of one, is ever
taken from a token.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from time import monotonic
from typing import Any

from joserfc.jwk import ECKey, OKPKey, RSAKey

Key = ECKey | OKPKey | RSAKey
Fetch = Callable[[], Awaitable[Mapping[str, Key]]]

REFETCH_S = 30.0
_KINDS: Mapping[str, type[Key]] = {"EC": ECKey, "OKP": OKPKey, "RSA": RSAKey}
_MIN_RSA_BITS = 2048


class Keyring:
    """The keys of one issuer. `fetch` gives all of them."""

    def __init__(self, fetch: Fetch, *, refetch_s: float = REFETCH_S) -> None:
        self._fetch = fetch
        self._refetch_s = refetch_s
        self._keys: Mapping[str, Key] = {}
        self._fetched_at = -refetch_s
        self._lock = asyncio.Lock()

    async def find(self, kid: str) -> Key | None:
        """Give the key of that name, or None. Raises what `fetch` raises."""
        if kid in self._keys:
            return self._keys[kid]
        async with self._lock:
            if kid not in self._keys and monotonic() - self._fetched_at >= self._refetch_s:
                self._fetched_at = monotonic()
                self._keys = await self._fetch()
        return self._keys.get(kid)


def public_keys(jwks: Any) -> dict[str, Key]:
    """Read a JWK set: asymmetric signature keys with a `kid`; everything else is left out."""
    found = {}
    for jwk in jwks.get("keys", []) if isinstance(jwks, dict) else []:
        kid, kind = jwk.get("kid"), _KINDS.get(jwk.get("kty"))
        if not isinstance(kid, str) or kind is None or jwk.get("use", "sig") != "sig":
            continue
        try:
            key = kind.import_key({k: v for k, v in jwk.items() if k not in {"use", "key_ops"}})
        except Exception:  # noqa: BLE001, S112 - one key that nobody can read spoils no other
            continue
        if isinstance(key, RSAKey) and key.raw_value.key_size < _MIN_RSA_BITS:
            continue
        found[kid] = key
    return found
