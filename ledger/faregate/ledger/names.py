"""Who is which account: subjects and sources as numbers, remembered once known to be committed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import asyncpg
from asyncpg.pgproto.pgproto import UUID

from faregate.ledger.keys import Keys
from faregate.ledger.queries import SQL

_CACHE_LIMIT = 200_000
_ERASED = "erased:"
_KINDS = ("org", "user")


def erased(account_id: int) -> str:
    """Name an account whose subject has been erased."""
    return f"{_ERASED}{account_id}"


def bare_id(subject: str) -> str:
    """Give the id in a subject: `user:42` is 42; an erased one stays `erased:7`, nobody's id."""
    return subject if subject.startswith(_ERASED) else subject.partition(":")[2]


def meant_subject(subject: str) -> str | None:
    """Give what was probably meant where a name has its kind twice, as `org:org:acme` has."""
    kind, _, name = subject.partition(":")
    return name if kind in _KINDS and name.partition(":")[0] in _KINDS else None


def member(org_id: int, user_id: int) -> str:
    """Name the account of an org's member, by account ids: no identifier of a person."""
    return f"member:{org_id}/{user_id}"


class Ids(dict[str, int]):
    """Account ids by subject, as they were when the database had counted `erasures`."""

    def __init__(self, found: Mapping[str, int], erasures: int) -> None:
        super().__init__(found)
        self.erasures = erasures

    def only(self, subjects: Iterable[str]) -> Ids:
        """Give those of `subjects`."""
        return Ids({s: self[s] for s in subjects}, self.erasures)


class Names:
    """Maps subjects to account ids and back, and makes accounts that are missing.

    Only committed rows are cached. A subject's account changes when somebody is erased and their
    name comes again: `erasures` is what the database had counted before anything was remembered,
    and whoever reads another number under a lock makes everything be forgotten.
    """

    def __init__(self, pool: asyncpg.Pool, keys: Keys) -> None:
        self._pool = pool
        self._keys = keys
        self._ids: dict[str, int] = {}
        self._subjects: dict[int, str] = {}
        self._sources: dict[str, int] = {}
        self._members: set[tuple[int, int]] = set()
        self._generation = 0
        self.erasures: int | None = None

    async def ids(self, subjects: Iterable[str]) -> Ids:
        """Give the account id of each subject, creating accounts (empty) where there is none."""
        self._make_room()
        if self.erasures is None:
            await self.renew()
        generation, erasures = self._generation, self.erasures or 0
        wanted = sorted(set(subjects))
        found = {s: self._ids[s] for s in wanted if s in self._ids}
        found.update({s: int(s[len(_ERASED) :]) for s in wanted if s.startswith(_ERASED)})
        missing = [s for s in wanted if s not in found]
        if missing:
            commitments = [UUID(self._keys.subject(s)) for s in missing]
            await self._pool.execute(SQL["ensure_accounts"], missing, commitments)
            rows = await self._pool.fetch(SQL["accounts_of_subjects"], missing)
            self._remember(rows, generation)
            found.update({r["subject"]: r["account_id"] for r in rows})
        return Ids({s: found[s] for s in wanted}, erasures)

    async def ensure_members(
        self, pairs: Iterable[tuple[str, str]], ids: Mapping[str, int]
    ) -> None:
        """Make the accounts of orgs' members that are missing; `ids` knows orgs and users."""
        wanted = {(ids[org], ids[user]) for org, user in pairs}
        missing = sorted(wanted - self._members)
        if missing:
            await self._pool.execute(
                SQL["ensure_members"],
                [org for org, _ in missing],
                [user for _, user in missing],
                [UUID(self._keys.subject(member(*pair))) for pair in missing],
            )
            self._members.update(missing)

    async def subjects(
        self, ids: Iterable[int], via: asyncpg.Connection | None = None
    ) -> Mapping[int, str]:
        """Give the subject of each account id; `erased:<id>` where it has been erased.

        Inside a transaction pass its connection: waiting for a second one could wait for ever. Who
        does so has compared `erasures` before.
        """
        self._make_room()
        if via is None:
            await self.renew()
        generation = self._generation
        wanted = set(ids)
        found = {i: self._subjects[i] for i in wanted if i in self._subjects}
        missing = [i for i in wanted if i not in found]
        if missing:
            rows = await (via or self._pool).fetch(SQL["subjects_of_accounts"], missing)
            self._remember(rows, generation)
            found.update({r["account_id"]: r["subject"] for r in rows if r["subject"]})
        return {i: found.get(i) or erased(i) for i in wanted}

    async def find(self, subject: str) -> int | None:
        """Give the account id of a subject without making one."""
        rows = await self._pool.fetch(SQL["accounts_of_subjects"], [subject])
        return rows[0]["account_id"] if rows else None

    async def source(self, source: str) -> int:
        """Give the number of an event source, adding it where it is new."""
        if source not in self._sources:
            await self._pool.execute(SQL["ensure_source"], source)
            self._sources[source] = await self._pool.fetchval(SQL["source_id"], source)
        return self._sources[source]

    async def renew(self) -> None:
        """Forget what was remembered before somebody was erased, as the database says now."""
        self.as_of(await self._pool.fetchval(SQL["erasures"]))

    def as_of(self, erasures: int) -> None:
        """Forget what was remembered before somebody was erased; `erasures` as just read."""
        if self.erasures != erasures:
            self.forget()
            self.erasures = erasures

    def _remember(self, rows: Iterable[asyncpg.Record], generation: int) -> None:
        if generation != self._generation:
            return  # read before something was forgotten
        for row in rows:
            if row["subject"] is not None:
                self._ids[row["subject"]] = row["account_id"]
                self._subjects[row["account_id"]] = row["subject"]

    def forget(self) -> None:
        """Forget everything: after a backup was restored, numbers may be somebody else's."""
        self._generation += 1
        self.erasures = None
        self._ids.clear()
        self._subjects.clear()
        self._sources.clear()
        self._members.clear()

    def _make_room(self) -> None:
        if len(self._ids) > _CACHE_LIMIT or len(self._subjects) > _CACHE_LIMIT:
            self._ids.clear()
            self._subjects.clear()
