"""`statement`: what there was, what came and went by kind, and what there is, of one account or all.

Everything is added up from the entries of one snapshot, so that what there was and all that happened
make what there is, to the last micro-credit. Where nothing is left out at the end, that is compared
with what the accounts themselves say.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from faregate.ledger.scan import PATIENCE_S, SQL, one_state

_ORDER = ("purchase", "bonus", "refund", "adjustment", "usage", "debt", "expiry", "hold", "release")


@dataclass(frozen=True, slots=True)
class Figures:
    """Micro-credits: those that are owned, those of them that are held, and what is owed."""

    balance: int = 0
    held: int = 0
    debt: int = 0

    def __add__(self, other: Figures) -> Figures:
        """Add each."""
        return Figures(self.balance + other.balance, self.held + other.held, self.debt + other.debt)


@dataclass(frozen=True, slots=True)
class Line:
    """What the entries of one kind changed; `reason` tells what was bought from what was given."""

    kind: str
    reason: str | None
    entries: int
    change: Figures


@dataclass(frozen=True, slots=True)
class Statement:
    """What there was, what happened, and what there is.

    `accounts` is how many there are now. `now` is what they say themselves, where the period has no
    end: `adds_up` is whether the entries come to the same.
    """

    accounts: int
    opening: Figures
    lines: tuple[Line, ...]
    now: Figures | None

    @property
    def closing(self) -> Figures:
        """What there is at the end."""
        return sum((line.change for line in self.lines), self.opening)

    @property
    def adds_up(self) -> bool | None:
        """Whether the accounts say what their entries come to; None where that is not asked."""
        return None if self.now is None else self.now == self.closing


async def statement(
    pool: asyncpg.Pool,
    account_id: int | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
) -> Statement:
    """Make the statement of one account, or of all, from a time on and before a time."""
    async with pool.acquire() as connection, one_state(connection):
        rows = await connection.fetch(SQL["statement"], account_id, start, end, timeout=PATIENCE_S)
        said = await connection.fetchrow(
            SQL["statement_of_accounts"], account_id, timeout=PATIENCE_S
        )
    now = Figures(said["balance"], said["held"], said["debt"]) if end is None else None
    earlier = (_figures(row) for row in rows if row["earlier"])
    return Statement(
        said["accounts"],
        sum(earlier, Figures()),
        tuple(_lines(row for row in rows if not row["earlier"])),
        now,
    )


def _figures(row: asyncpg.Record) -> Figures:
    return Figures(row["balance"], row["held"], row["debt"])


def _lines(rows: Iterable[asyncpg.Record]) -> list[Line]:
    found = [Line(r["kind"], r["reason"], r["entries"], _figures(r)) for r in rows]
    return sorted(found, key=lambda line: (_ORDER.index(line.kind), line.reason or ""))
