"""The keys that users brought, in the database: put in, opened for a call, never shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import asyncpg
from pydantic import SecretStr

from faregate.gateway.byok.sealing import MasterKey, Place, Sealed, seal, unseal

Status = Literal["stored", "valid", "refused"]

_NEXT = "SELECT nextval('byok_key_versions')"
_PUT = """
INSERT INTO byok_keys (owner, provider, version, sealed, data_key, master_id, masked, status)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (owner, provider) DO UPDATE SET
    version = EXCLUDED.version, sealed = EXCLUDED.sealed, data_key = EXCLUDED.data_key,
    master_id = EXCLUDED.master_id, masked = EXCLUDED.masked, status = EXCLUDED.status,
    created_at = clock_timestamp(), status_at = clock_timestamp()
WHERE byok_keys.version < EXCLUDED.version
RETURNING provider, masked, status, created_at, status_at"""
_GET = """
SELECT version, sealed, data_key, master_id FROM byok_keys WHERE owner = $1 AND provider = $2"""
_ONE = """
SELECT provider, masked, status, created_at, status_at FROM byok_keys
WHERE owner = $1 AND provider = $2"""
_LIST = """
SELECT provider, masked, status, created_at, status_at FROM byok_keys WHERE owner = $1
ORDER BY provider"""
_DELETE = "DELETE FROM byok_keys WHERE owner = $1 AND provider = $2 RETURNING 1"
_MARK = """
UPDATE byok_keys SET status = $4, status_at = clock_timestamp()
WHERE owner = $1 AND provider = $2 AND version = $3 AND status <> $4"""
_SHOWN_FROM = 20
"""Of a shorter key nothing is shown."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What may be known of a stored key."""

    provider: str
    masked: str
    status: Status
    created_at: datetime
    status_at: datetime


@dataclass(frozen=True, slots=True)
class Opened:
    """A key for one call, and the version of it, to say what became of it."""

    key: SecretStr
    version: int


class Vault:
    """Users' keys. The first master key seals, all of them open. Raises the driver's errors."""

    def __init__(self, pool: asyncpg.Pool, masters: Sequence[MasterKey]) -> None:
        self._pool = pool
        self._masters = tuple(masters)

    @property
    def is_locked(self) -> bool:
        """Whether there is no master key: nothing can be stored or opened."""
        return not self._masters

    async def put(self, owner: str, provider: str, key: SecretStr, status: Status) -> Kept:
        """Store a key in the place of the one before."""
        version = await self._pool.fetchval(_NEXT)
        sealed = seal(self._masters[0], Place(owner, provider, version), key.get_secret_value())
        row = await self._pool.fetchrow(
            _PUT,
            owner,
            provider,
            version,
            sealed.sealed,
            sealed.data_key,
            sealed.master_id,
            masked(key),
            status,
        ) or await self._pool.fetchrow(_ONE, owner, provider)  # a newer one came at the same time
        return Kept(**dict(row))

    async def open(self, owner: str, provider: str) -> Opened | None:
        """Open a key for a call; None where there is none. Raises Unsealable."""
        row = await self._pool.fetchrow(_GET, owner, provider)
        if row is None:
            return None
        place = Place(owner, provider, row["version"])
        sealed = Sealed(row["sealed"], row["data_key"], row["master_id"])
        return Opened(SecretStr(unseal(self._masters, place, sealed)), row["version"])

    async def list(self, owner: str) -> list[Kept]:
        """List what an owner has stored."""
        return [Kept(**dict(row)) for row in await self._pool.fetch(_LIST, owner)]

    async def delete(self, owner: str, provider: str) -> bool:
        """Forget a key; False where there was none."""
        return bool(await self._pool.fetchval(_DELETE, owner, provider))

    async def mark(self, owner: str, provider: str, version: int, status: Status) -> None:
        """Note what the provider said about a key, unless it was replaced meanwhile."""
        await self._pool.execute(_MARK, owner, provider, version, status)


def masked(key: SecretStr) -> str:
    """Show so much of a key that its owner knows which it is."""
    text = key.get_secret_value()
    return f"{text[:3]}…{text[-4:]}" if len(text) >= _SHOWN_FROM else "…"
