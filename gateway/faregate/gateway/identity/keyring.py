"""Public keys by `kid`: kept, read again while they are used, and at once for an unknown one.

The `kid` of a token is a look-up key and nothing else; no key, and no address of one, is ever
taken from a token. A key that the issuer has withdrawn is let go of: keys are read again in the
background once they are half as old as they may be, and before any more is verified once they are
that old. An issuer that does not answer is another matter: known keys are good for an hour then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from time import monotonic
from typing import Any

import structlog
from joserfc.jwk import ECKey, OKPKey, RSAKey

log = structlog.get_logger("faregate.gateway")

Key = ECKey | OKPKey | RSAKey
Fetch = Callable[[], Awaitable[Mapping[str, Key]]]

REFETCH_S = 5.0
"""An unknown `kid` makes keys be read again at most so often, failed attempts included."""
MAX_AGE_S = 300.0
UNANSWERED_S = 3_600.0
_RETRY_S = 30.0
_KINDS: Mapping[str, type[Key]] = {"EC": ECKey, "OKP": OKPKey, "RSA": RSAKey}
_MIN_RSA_BITS = 2048


class KeysUnavailable(Exception):
    """The issuer's keys cannot be read now: nobody can be let in by a new key."""


class Keyring:
    """The keys of one issuer. `fetch` gives all of them; ages are seconds."""

    def __init__(
        self, fetch: Fetch, *, refetch_s: float = REFETCH_S, max_age_s: float = MAX_AGE_S
    ) -> None:
        self._fetch = fetch
        self._refetch_s = refetch_s
        self._max_age_s = max_age_s
        self._keys: Mapping[str, Key] = {}
        self._read_at = float("-inf")
        self._asked_at = float("-inf")
        self._failed = False
        self._lock = asyncio.Lock()
        self._refreshing: asyncio.Task[None] | None = None

    async def find(self, kid: str) -> Key | None:
        """Give the key of that name, or None. Raises KeysUnavailable, and what `fetch` raises."""
        key = self._usable(kid)
        if key is None:
            async with self._lock:
                key = self._usable(kid)  # whoever had the lock may have read them
                if key is None:
                    await self._read_if_it_may_help()
                    key = self._usable(kid)
        return key

    def holds(self, kid: str, key: Key) -> bool:
        """Tell whether a key that was found before is still one that counts."""
        return self._usable(kid) is key

    def _usable(self, kid: str) -> Key | None:
        """Give a key that is young enough; have keys read again in time."""
        key, age = self._keys.get(kid), self._age_s()
        if key is None or age < self._max_age_s / 2:
            return key
        if age >= (UNANSWERED_S if self._failed else self._max_age_s):
            return None
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.create_task(self._read_again())
            self._refreshing.add_done_callback(_say_what_failed)
        return key

    def _age_s(self) -> float:
        return monotonic() - self._read_at

    async def _read_again(self) -> None:
        """Read half-old keys, in the background; not at once after a failure."""
        async with self._lock:
            wait_s = _RETRY_S - (monotonic() - self._asked_at) if self._failed else 0.0
            if self._age_s() >= self._max_age_s / 2 and wait_s <= 0:
                await self._read()

    async def _read_if_it_may_help(self) -> None:
        just_asked = monotonic() - self._asked_at < self._refetch_s
        if just_asked and self._failed:
            raise KeysUnavailable("the keys could not be read a moment ago")
        if not just_asked or self._age_s() >= self._max_age_s:
            await self._read()

    async def _read(self) -> None:
        self._asked_at = monotonic()
        try:
            found = await self._fetch()
        except BaseException:
            self._failed = True
            raise
        self._keys = {kid: self._same(kid, key) for kid, key in found.items()}
        self._read_at, self._failed = monotonic(), False

    def _same(self, kid: str, key: Key) -> Key:
        """Give the key that is known already where it is the same: `holds` goes by identity."""
        known = self._keys.get(kid)
        return known if known is not None and known.thumbprint() == key.thumbprint() else key


def _say_what_failed(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.warning("keys_not_read", error=type(error).__name__)


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
