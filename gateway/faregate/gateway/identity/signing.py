"""The keys that sign the embedded identity's tokens: made at the first start, kept in the database.

All gateway processes of one database share them. A row added to `signing_keys` later signs from
then on in processes that start; older keys go on verifying.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import asyncpg
from joserfc.jwk import ECKey

from faregate.gateway.identity.keyring import Key

_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('faregate.signing_keys', 0))"
_KEYS = "SELECT kid, jwk FROM signing_keys ORDER BY created_at, kid"
_ADD = "INSERT INTO signing_keys (kid, jwk) VALUES ($1, $2)"


async def newest_key(pool: asyncpg.Pool) -> tuple[str, Key]:
    """Give the key that signs, made now where there is none: its `kid`, and the private key."""
    rows = await pool.fetch(_KEYS)
    if not rows:
        async with pool.acquire() as connection, connection.transaction():
            await connection.execute(_LOCK)
            rows = await connection.fetch(_KEYS)
            if not rows:
                key = ECKey.generate_key("P-256", private=True)
                kid = key.thumbprint()
                await connection.execute(_ADD, kid, json.dumps(key.as_dict(private=True)))
                return kid, key
    row = rows[-1]
    return row["kid"], ECKey.import_key(json.loads(row["jwk"]))


async def public_keys(pool: asyncpg.Pool) -> Mapping[str, Key]:
    """Give all keys that may have signed a token."""
    rows = await pool.fetch(_KEYS)
    return {
        row["kid"]: ECKey.import_key({k: v for k, v in json.loads(row["jwk"]).items() if k != "d"})
        for row in rows
    }
