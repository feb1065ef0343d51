"""Rotation of the master key, while everything runs.

Only data keys are wrapped anew: no user's key is opened. Each batch is a transaction, and a row
says itself which master key it is under, so an interrupted rotation goes on where it stopped.
"""

from __future__ import annotations

from dataclasses import dataclass

import asyncpg

from faregate.gateway.byok.sealing import MasterKey, Place, Sealed, Unsealable, rewrap

_BATCH = 100
_NEXT = """
SELECT owner, provider, version, sealed, data_key, master_id FROM byok_keys
WHERE master_id = $1 AND (owner, provider) > ($2, $3) ORDER BY owner, provider LIMIT $4
FOR UPDATE"""
_REWRAPPED = """
UPDATE byok_keys SET data_key = $4, master_id = $5
WHERE owner = $1 AND provider = $2 AND version = $3"""
_COUNTS = """
SELECT count(*) FILTER (WHERE master_id = $1) AS done,
       count(*) FILTER (WHERE master_id <> $1) AS remaining FROM byok_keys"""


@dataclass(frozen=True, slots=True)
class Rotation:
    """What a rotation came to: keys that this run wrapped anew, and those that did not open.

    `done` are under the new master key now, `remaining` are not (sealed meanwhile, or under a
    third one).
    """

    rotated: int
    done: int
    remaining: int
    damaged: int


async def rotate(
    pool: asyncpg.Pool, old: MasterKey, new: MasterKey, *, batch: int = _BATCH
) -> Rotation:
    """Wrap every data key that is under `old` with `new`. Repeat it until nothing remains.

    Raises the driver's errors; what was done until then stays done.
    """
    rotated = damaged = 0
    after = ("", "")
    while old.id != new.id:
        async with pool.acquire() as connection, connection.transaction():
            rows = await connection.fetch(_NEXT, old.id, *after, batch)
            for row in rows:
                if await _rotated(connection, old, new, row):
                    rotated += 1
                else:
                    damaged += 1
        if not rows:
            break
        after = (rows[-1]["owner"], rows[-1]["provider"])
    counts = await pool.fetchrow(_COUNTS, new.id)
    return Rotation(rotated, counts["done"], counts["remaining"], damaged)


async def _rotated(
    connection: asyncpg.Connection, old: MasterKey, new: MasterKey, row: asyncpg.Record
) -> bool:
    place = Place(row["owner"], row["provider"], row["version"])
    try:
        wrapped = rewrap(old, new, place, Sealed(row["sealed"], row["data_key"], row["master_id"]))
    except Unsealable:
        return False
    await connection.execute(
        _REWRAPPED,
        place.owner,
        place.provider,
        place.version,
        wrapped.data_key,
        wrapped.master_id,
    )
    return True
