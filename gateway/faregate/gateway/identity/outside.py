"""Users of an outside identity provider: who there is, and whose address is verified, in any order.

Only addresses that the provider has verified are noted: who is invited by an address becomes a
member of an org, so an address that nobody has proven would let anybody in. Rules for events that
are repeated or late:

- The newest event about a user's address counts, by the provider's clock, which may be ahead of
  ours by as much as that of its tokens may. An event without a time, or from further ahead than
  that, counts as it comes: what its time is worth nobody knows, and it must not outlast the others.
- A token changes nothing that was said of an address after it was issued.
- A deletion is final, also when it arrives before the creation: ids are never given again.
- An address is one user's: of who verified it first, until an event says that they have it no more.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Literal
from uuid import UUID

import asyncpg

from faregate.gateway.identity.keycloak import UserEvent
from faregate.gateway.identity.tokens import SKEW_S
from faregate.ledger.keys import Keys

_AHEAD = timedelta(seconds=SKEW_S)

Known = Literal["newest", "late", "taken", "gone"]
"""How an event came: `late` if a newer one has spoken of the user's address, `taken` if the address
is somebody else's, or the user is `gone`."""

_STATE = """
INSERT INTO identity_state AS known (user_key, at, deleted) VALUES ($1, $2, $3)
ON CONFLICT (user_key) DO UPDATE
SET at = greatest(known.at, EXCLUDED.at), deleted = known.deleted OR EXCLUDED.deleted
RETURNING at, deleted"""
_DELETED = "SELECT deleted FROM identity_state WHERE user_key = $1"
_SAID = """
SELECT u.email, s.at FROM users u LEFT JOIN identity_state s ON s.user_key = $2
WHERE u.user_id = $1 AND s.deleted IS NOT TRUE"""
_ADDRESS = "SELECT email FROM users WHERE user_id = $1"
_ADD = """
INSERT INTO users (user_id, email, name)
SELECT $1, NULL, $2
WHERE NOT EXISTS (SELECT FROM identity_state WHERE user_key = $3 AND deleted)
ON CONFLICT (user_id) DO UPDATE SET name = coalesce(users.name, EXCLUDED.name)
WHERE users.password_hash IS NULL AND users.name IS NULL AND EXCLUDED.name IS NOT NULL"""
_NOTE = """
UPDATE users SET email = $2 WHERE user_id = $1 AND email IS NULL
AND NOT EXISTS (SELECT FROM users other WHERE lower(other.email) = lower($2))"""
_CHANGE = """
UPDATE users SET email = $2, name = coalesce($3, name)
WHERE user_id = $1 AND password_hash IS NULL"""
_FORGET = "UPDATE users SET email = NULL WHERE user_id = $1 AND password_hash IS NULL"
_DELETE = "DELETE FROM users WHERE user_id = $1 AND password_hash IS NULL"


class OutsideUsers:
    """The users in the database. All raise the driver's errors when it is away."""

    def __init__(self, pool: asyncpg.Pool, keys: Keys) -> None:
        self._pool = pool
        self._keys = keys

    async def note(self, user_id: str, email: str, issued_at: float | None) -> bool:
        """Note a verified address that a token has shown, unless one is noted already.

        False: an event has said since that it is not theirs, or that they are gone; or the address
        is somebody else's.
        `issued_at` is the token's `iat` (epoch seconds); None: older than whatever was said.
        """
        key = self._key(user_id)
        async with self._pool.acquire() as connection, connection.transaction():
            # Locks the user's row: an event under way is waited for, and seen by what follows.
            await connection.execute(_ADD, user_id, None, key)
            known = await connection.fetchrow(_SAID, user_id, key)
            if known is None:  # a deletion may have come in between
                await connection.execute(_DELETE, user_id)
                return False
            if known["email"] is not None and known["email"].lower() == email.lower():
                return True
            at = known["at"]
            if at is not None and (issued_at is None or issued_at < at.timestamp()):
                return False
            with suppress(asyncpg.UniqueViolationError):  # somebody else's, in this very moment
                async with connection.transaction():
                    await connection.execute(_NOTE, user_id, email)
            now = await connection.fetchval(_ADDRESS, user_id)
            return now is not None and now.lower() == email.lower()

    async def learn(self, event: UserEvent) -> Known:
        """Take in what an event says of a user. Safe to repeat."""
        key = self._key(event.user_id)
        async with self._pool.acquire() as connection, connection.transaction():
            known = await _known(connection, event, key)
            if known == "gone":
                await connection.execute(_DELETE, event.user_id)
                return known
            if event.created or event.verified is not None:
                await connection.execute(_ADD, event.user_id, event.name, key)
            if known == "newest" and event.verified and event.email is not None:
                if not await _change(connection, event.user_id, event.email, event.name):
                    return "taken"
            elif known == "newest" and event.verified is False:
                await connection.execute(_FORGET, event.user_id)
            return known

    def _key(self, user_id: str) -> UUID:
        return UUID(bytes=self._keys.internal("outside user", user_id))


async def _known(connection: asyncpg.Connection, event: UserEvent, key: UUID) -> Known:
    """Keep what the event says last, and tell how it came."""
    if not (event.deleted or event.verified is False or (event.verified and event.email)):
        return "gone" if await connection.fetchval(_DELETED, key) else "newest"
    now = datetime.now(UTC)
    timed = event.at is not None and event.at <= now + _AHEAD
    at = event.at if timed else now
    state = await connection.fetchrow(_STATE, key, at, event.deleted)
    if state["deleted"]:
        return "gone"
    return "newest" if state["at"] == at or not timed else "late"


async def _change(
    connection: asyncpg.Connection, user_id: str, email: str, name: str | None
) -> bool:
    """Give a user an address; False: it is somebody else's, and they have none now."""
    try:
        async with connection.transaction():
            await connection.execute(_CHANGE, user_id, email, name)
    except asyncpg.UniqueViolationError:
        await connection.execute(_FORGET, user_id)
        return False
    return True
