"""Who is which account: subjects and sources as numbers, remembered once known to be committed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import asyncpg
from asyncpg.pgproto.pgproto import UUID

from faregate.ledger.keys import Keys
from faregate.ledger.queries import SQL

_CACHE_LIMIT = 200_000


def erased(account_id: int) -> str:
    """Name an account whose subject has been erased."""
    return f"erased:{account_id}"


class Names:
    """Maps subjects to account ids and back, and makes accounts that are missing.

    Only committed rows are cached; a subject's account never changes.
    """

    def __init__(self, pool: asyncpg.Pool, keys: Keys) -> None:
        self._pool = pool
        self._keys = keys
        self._ids: dict[str, int] = {}
        self._subjects: dict[int, str] = {}
        self._sources: dict[str, int] = {}

    async def ids(self, subjects: Iterable[str]) -> Mapping[str, int]:
        """Give the account id of each subject, creating accounts (empty) where there is none."""
        self._make_room()
        wanted = sorted(set(subjects))
        found = {s: self._ids[s] for s in wanted if s in self._ids}
        missing = [s for s in wanted if s not in found]
        if missing:
            commitments = [UUID(self._keys.subject(s)) for s in missing]
            await self._pool.execute(SQL["ensure_accounts"], missing, commitments)
            rows = await self._pool.fetch(SQL["accounts_of_subjects"], missing)
            self._remember(rows)
            found.update({r["subject"]: r["account_id"] for r in rows})
        return {s: found[s] for s in wanted}

    async def subjects(
        self, ids: Iterable[int], via: asyncpg.Connection | None = None
    ) -> Mapping[int, str]:
        """Give the subject of each account id; `erased:<id>` where it has been erased.

        Inside a transaction pass its connection: waiting for a second one could wait for ever.
        """
        self._make_room()
        wanted = set(ids)
        found = {i: self._subjects[i] for i in wanted if i in self._subjects}
        missing = [i for i in wanted if i not in found]
        if missing:
            rows = await (via or self._pool).fetch(SQL["subjects_of_accounts"], missing)
            self._remember(rows)
            found.update({r["account_id"]: r["subject"] for r in rows if r["subject"]})
        return {i: found.get(i) or erased(i) for i in wanted}

    async def find(self, subject: str) -> int | None:
        """Give the account id of a subject without making one."""
        if subject not in self._ids:
            self._remember(await self._pool.fetch(SQL["accounts_of_subjects"], [subject]))
        return self._ids.get(subject)

    async def source(self, source: str) -> int:
        """Give the number of an event source, adding it where it is new."""
        if source not in self._sources:
            await self._pool.execute(SQL["ensure_source"], source)
            self._sources[source] = await self._pool.fetchval(SQL["source_id"], source)
        return self._sources[source]

    def _remember(self, rows: Iterable[asyncpg.Record]) -> None:
        for row in rows:
            if row["subject"] is not None:
                self._ids[row["subject"]] = row["account_id"]
                self._subjects[row["account_id"]] = row["subject"]

    def forget(self) -> None:
        """Forget everything: after a backup was restored, numbers may be somebody else's."""
        self._ids.clear()
        self._subjects.clear()
        self._sources.clear()

    def _make_room(self) -> None:
        if len(self._ids) > _CACHE_LIMIT or len(self._subjects) > _CACHE_LIMIT:
            self._ids.clear()
            self._subjects.clear()
