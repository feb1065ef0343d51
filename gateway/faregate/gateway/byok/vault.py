"""The keys that users brought, in the database: put in, opened for a call, never shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import asyncpg
from pydantic import SecretStr

from faregate.gateway.byok.sealing import MasterKey, Place, Sealed, fingerprint, seal, unseal
from faregate.ledger import once

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

    def fingerprints(self, key: SecretStr) -> Sequence[str]:
        """Give what tells whether a key is the same again, by each master key that is set."""
        return [fingerprint(m, key.get_secret_value()) for m in self._masters]

    async def stored_at(self, call: once.Call | None) -> datetime | None:
        """Tell when a call put its key in; None: it did not. Raises Rejected: another key then."""
        return _time(await once.found(self._pool, call))

    async def put(
        self,
        owner: str,
        provider: str,
        key: SecretStr,
        status: Status,
        call: once.Call | None = None,
    ) -> datetime:
        """Store a key in the place of the one before, once for its call; tell when."""
        async with self._pool.acquire() as connection, connection.transaction():
            if before := _time(await once.answered(connection, call)):
                return before
            version = await connection.fetchval(_NEXT)
            sealed = seal(self._masters[0], Place(owner, provider, version), key.get_secret_value())
            row = await connection.fetchrow(
                _PUT,
                owner,
                provider,
                version,
                sealed.sealed,
                sealed.data_key,
                sealed.master_id,
                masked(key),
                status,
            ) or await connection.fetchrow(_ONE, owner, provider)  # a newer one came meanwhile
            at: datetime = row["created_at"]
            await once.remember(connection, call, {"at": at.isoformat()})
            return at

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

    async def delete(self, owner: str, provider: str, call: once.Call | None = None) -> bool:
        """Forget a key; False where there was none. A call that has forgotten one did so."""
        async with self._pool.acquire() as connection, connection.transaction():
            if await once.answered(connection, call) is not None:
                return True
            if not await connection.fetchval(_DELETE, owner, provider):
                return False
            await once.remember(connection, call, {})
            return True

    async def mark(self, owner: str, provider: str, version: int, status: Status) -> None:
        """Note what the provider said about a key, unless it was replaced meanwhile."""
        await self._pool.execute(_MARK, owner, provider, version, status)


def _time(answer: once.Answer | None) -> datetime | None:
    return None if answer is None else datetime.fromisoformat(answer["at"])


def masked(key: SecretStr) -> str:
    """Show so much of a key that its owner knows which it is."""
    text = key.get_secret_value()
    return f"{text[:3]}…{text[-4:]}" if len(text) >= _SHOWN_FROM else "…"
