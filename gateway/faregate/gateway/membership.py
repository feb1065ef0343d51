"""Who belongs to which org, read for each call: lookups that arrive together share one query.

Nothing is remembered, so whoever is removed from an org is out with their next call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import asyncpg

from faregate.gateway.together import Together
from faregate.ledger.names import bare_id

Roles = Mapping[str, str]
"""Role by org id."""

REMOVED = "removed"
"""The role of who was a member once."""

_ORGS = """
SELECT u.subject AS user_subject, o.subject AS org, a.plan ->> 'role' AS role
FROM subjects u
JOIN members m ON m.user_id = u.account_id
JOIN subjects o ON o.account_id = m.org_id
JOIN accounts a ON a.id = m.account_id
WHERE u.subject = ANY ($1::text[]) AND a.plan ->> 'role' IN ('admin', 'member', 'removed')
  AND o.subject IS NOT NULL"""


class Memberships:
    """The orgs of users."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._together: Together[str, Roles] = Together(self._roles)

    async def of(self, user_id: str) -> Roles:
        """Give a user's role in each of their orgs. Raises the driver's errors."""
        ever = await self._together.of(user_id)
        return {org: role for org, role in ever.items() if role != REMOVED}

    async def ever(self, user_id: str) -> Roles:
        """Give the same with the orgs that they once belonged to, where they are REMOVED."""
        return await self._together.of(user_id)

    async def _roles(self, user_ids: Sequence[str]) -> dict[str, dict[str, str]]:
        rows = await self._pool.fetch(_ORGS, [f"user:{u}" for u in user_ids])
        roles: dict[str, dict[str, str]] = {u: {} for u in user_ids}
        for row in rows:
            roles[bare_id(row["user_subject"])][bare_id(row["org"])] = row["role"]
        return roles
