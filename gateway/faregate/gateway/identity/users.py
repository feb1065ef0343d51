"""Users of the embedded identity, and invitations by e-mail address.

Addresses are compared without regard to case. Users of an outside issuer are noted here too
(`outside.py`), so that they can be invited by the address that it has verified.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import uuid4

import asyncpg

from faregate.gateway.problems import Problem
from faregate.ledger import once
from faregate.ledger.core import Rejected

_INSERT = """
INSERT INTO users (user_id, email, password_hash, name, is_admin) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT DO NOTHING RETURNING user_id"""
_BY_EMAIL = "SELECT * FROM users WHERE lower(email) = lower($1)"
_BY_ID = "SELECT * FROM users WHERE user_id = $1"
_INVITE = """
INSERT INTO invitations (org_id, email, role, invited_by) VALUES ($1, lower($2), $3, $4)
ON CONFLICT (org_id, email) DO UPDATE SET role = EXCLUDED.role, created_at = clock_timestamp()"""
_INVITATIONS = """
SELECT org_id, role, invited_by, created_at FROM invitations WHERE email = lower($1)
ORDER BY created_at, org_id"""
_ACCEPTED = "DELETE FROM invitations WHERE email = lower($1) AND org_id = $2"


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who can sign in. `password_hash` is None where an outside issuer signs them in.

    `email` is None while that issuer has not verified it.
    """

    user_id: str
    email: str | None
    password_hash: str | None
    name: str | None
    is_admin: bool


@dataclass(frozen=True, slots=True)
class Registered:
    """Who has registered, and the first org that had invited them; `repeated`: by the same call."""

    user: User
    org_id: str | None
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class Invitation:
    """An org that waits for somebody."""

    org_id: str
    role: str
    invited_by: str
    created_at: datetime


class Users:
    """The users in the database. All raise the driver's errors when it is away."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def add(
        self,
        email: str,
        password_hash: str | None,
        *,
        user_id: str | None = None,
        name: str | None = None,
        is_admin: bool = False,
    ) -> User:
        """Add a user. Raises Problem `email_taken`."""
        user = User(user_id or str(uuid4()), email, password_hash, name, is_admin)
        return (await self.register(user, None)).user

    async def register(self, user: User, call: once.Call | None) -> Registered:
        """Add a user, once for their call. Raises Problem `email_taken`, and Rejected."""
        async with self._pool.acquire() as connection, connection.transaction():
            before = await once.answered(connection, call)
            if before is not None:
                return await _registered(connection, before)
            values = (user.user_id, user.email, user.password_hash, user.name, user.is_admin)
            if await connection.fetchval(_INSERT, *values) is None:
                raise Problem("email_taken", "This e-mail address is registered already.")
            invited = await connection.fetchrow(_INVITATIONS, user.email)
            org_id = invited["org_id"] if invited else None
            await once.remember(connection, call, {"user": user.user_id, "org": org_id})
            return Registered(user, org_id)

    async def registered(self, call: once.Call | None) -> Registered | None:
        """Find who was registered by a call. Raises Rejected: it said something else."""
        before = await once.found(self._pool, call)
        return None if before is None else await _registered(self._pool, before)

    async def by_email(self, email: str) -> User | None:
        """Find who has an address."""
        return _user(await self._pool.fetchrow(_BY_EMAIL, email))

    async def by_id(self, user_id: str) -> User | None:
        """Find a user by id."""
        return _user(await self._pool.fetchrow(_BY_ID, user_id))

    async def invite(
        self, org_id: str, email: str, role: str, invited_by: str, call: once.Call | None = None
    ) -> once.Answer:
        """Keep an invitation for who is not known yet; the newest role counts.

        Gives the answer to its call: what it was the first time.
        """
        async with self._pool.acquire() as connection, connection.transaction():
            if before := await once.answered(connection, call):
                return before
            await connection.execute(_INVITE, org_id, email, role, invited_by)
            answer = {"status": "invited", "user": None}
            await once.remember(connection, call, answer)
            return answer

    async def invitations(self, email: str) -> list[Invitation]:
        """List the orgs that wait for an address."""
        rows = await self._pool.fetch(_INVITATIONS, email)
        return [Invitation(**dict(r)) for r in rows]

    async def accepted(self, email: str, org_id: str) -> None:
        """Forget an invitation that has become a membership."""
        await self._pool.execute(_ACCEPTED, email, org_id)


async def _registered(
    connection: asyncpg.Connection | asyncpg.Pool, answer: once.Answer
) -> Registered:
    user = _user(await connection.fetchrow(_BY_ID, answer["user"]))
    if user is None:
        raise Rejected("idempotency_conflict", "who was registered by this call is not here now")
    return Registered(user, answer["org"], repeated=True)


def _user(row: asyncpg.Record | None) -> User | None:
    if row is None:
        return None
    return User(row["user_id"], row["email"], row["password_hash"], row["name"], row["is_admin"])
