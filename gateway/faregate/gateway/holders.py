"""Whose a hold is: who made it, and for which org, whatever they belong to since."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from faregate.gateway.together import Together

_HOLDERS = """
SELECT p.pipeline_key, u.subject AS user_subject, o.subject AS org, p.org_id IS NOT NULL AS for_org,
       a.plan ->> 'role' IN ('admin', 'member') AS belongs
FROM pipelines p
JOIN subjects u ON u.account_id = p.user_id
LEFT JOIN subjects o ON o.account_id = p.org_id
LEFT JOIN members m ON m.org_id = p.org_id AND m.user_id = p.user_id
LEFT JOIN accounts a ON a.id = m.account_id
WHERE p.pipeline_key = ANY ($1::uuid[]) AND u.subject IS NOT NULL"""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who made a hold, and the org that it is for: subjects, as the ledger has them.

    `has_left`: they do not belong to that org now.
    """

    user: str
    org: str | None
    has_left: bool = False


class Holders:
    """The holders of holds; lookups that arrive together share one query."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._together: Together[UUID, Holder | None] = Together(self.of_all)

    async def of(self, hold_id: UUID) -> Holder | None:
        """Give whose a hold is; None where there is none. Raises the driver's errors."""
        return await self._together.of(hold_id)

    async def of_all(self, hold_ids: Sequence[UUID]) -> Mapping[UUID, Holder | None]:
        """Give whose each hold is. An erased org's hold is nobody's."""
        found: dict[UUID, Holder | None] = dict.fromkeys(hold_ids)
        for row in await self._pool.fetch(_HOLDERS, list(hold_ids)):
            if row["org"] is not None or not row["for_org"]:
                hold_id = UUID(bytes=row["pipeline_key"].bytes)
                has_left = bool(row["for_org"]) and not row["belongs"]
                found[hold_id] = Holder(row["user_subject"], row["org"], has_left)
        return found
