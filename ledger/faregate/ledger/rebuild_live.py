"""`rebuild`: make every balance, grant, hold, allocation and quota again, and compare with the live.

Everything is read in one REPEATABLE READ snapshot. What the entries make is written into fresh
tables in the schema `rebuilt`, which stay until the next time; no live table is ever written. The
folding itself is `core.rebuild`: plain sums, without anything of what decides.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from time import monotonic
from typing import Any

import asyncpg
from asyncpg.pgproto.pgproto import UUID

from faregate.ledger import stored
from faregate.ledger.core import Entry, GrantTerms, Rejected
from faregate.ledger.core.rebuild import Rebuilt, Unsound
from faregate.ledger.scan import PATIENCE_S, SQL, Progress, chunks, one_state

SHOWN = 1000
"""So many differences of one kind are listed; all are counted."""

_COLUMNS = {
    "accounts": ("id", "balance", "held", "debt", "sequence", "granted", "last_at", "grants"),
    "grants": (
        "account_id",
        "number",
        "kind",
        "amount",
        "priority",
        "expires_at",
        "remaining",
        "held",
    ),
    "holds": ("hold_id", "account_id", "remaining", "pins"),
}
_CHECKS = ("accounts", "grants", "terms", "holds", "quotas")


@dataclass(frozen=True, slots=True)
class Difference:
    """One value that is not what the entries make it. Amounts are micro-credits."""

    account: str
    what: str
    live: str | None
    rebuilt: str | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was rebuilt, and in what the live tables differ.

    `accounts` counts all that were compared, also those without any entry; `holds` those that still
    reserve something.
    """

    entries: int
    accounts: int
    grants: int
    holds: int
    differences: list[Difference]
    differences_total: int
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether the live tables are what the entries make them."""
        return self.differences_total == 0

    def as_json(self) -> dict[str, Any]:
        """Give the comparison as one JSON object."""
        return {"ok": self.ok, **asdict(self)}


async def rebuild_and_compare(
    connection: asyncpg.Connection, progress: Progress | None = None
) -> Comparison:
    """Rebuild as the owner of the database, who may make a schema.

    `progress` gets the entries done and all entries. Raises Rejected `rebuild_running`, and
    `schema_in_use` when there is a schema `rebuilt` of somebody else's.
    """
    begun = monotonic()
    async with one_state(connection, readonly=False):
        if not await connection.fetchval(SQL["lock_rebuild"]):
            raise Rejected("rebuild_running", "another rebuild is running")
        if await connection.fetchval(SQL["foreign_schema"]):
            message = "there is a schema named rebuilt that rebuild has not made: rename it"
            raise Rejected("schema_in_use", message)
        await connection.execute(SQL["rebuilt_schema"])
        folding = await _fold_all(connection, progress)
        await connection.execute(SQL["rebuild_allocations"], timeout=PATIENCE_S)
        await connection.execute(SQL["rebuild_quotas"], timeout=PATIENCE_S)
        found, total = await _compare(connection, folding)
        accounts = await connection.fetchval(SQL["compared_accounts"], timeout=PATIENCE_S)
        holds = await connection.fetchval(SQL["rebuilt_holds"], timeout=PATIENCE_S)
    return Comparison(
        folding.entries,
        accounts,
        folding.written["grants"],
        holds,
        found,
        total,
        round(monotonic() - begun, 3),
    )


@dataclass(slots=True)
class _Folding:
    """One account after another, and the rows that they make."""

    entries: int = 0
    account_id: int | None = None
    account: Rebuilt | None = None
    made: dict[int, tuple[str, int]] = field(default_factory=dict)
    """Kind and first amount of the account's grants, by number."""
    unsound: dict[int, str] = field(default_factory=dict)
    rows: dict[str, list[tuple[Any, ...]]] = field(
        default_factory=lambda: {name: [] for name in _COLUMNS}
    )
    written: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_COLUMNS, 0))

    def take(self, row: asyncpg.Record) -> None:
        """Fold the next entry; what follows one that cannot be is left out."""
        self.entries += 1
        if row["account_id"] != self.account_id:
            self.end()
            self.account_id, self.account = row["account_id"], Rebuilt(str(row["account_id"]))
            self.made = {}
        if self.account is None or row["account_id"] in self.unsound:
            return
        entry = _entry(row)
        if entry.terms is not None:
            own = sum(amount for number, amount, _ in entry.grants if number == entry.sequence)
            self.made[entry.sequence] = (entry.kind, own)
        try:
            self.account.add(entry)
        except Unsound as error:
            self.unsound[row["account_id"]] = str(error).partition(": ")[2]

    def end(self) -> None:
        """End the account in hand: keep its rows."""
        account, number = self.account, self.account_id
        if account is None or number is None:
            return
        values = (account.balance, account.held, account.debt, account.sequence, account.granted)
        live = stored.grants_text(account.grants())
        self.rows["accounts"].append((number, *values, account.last_at, live))
        self.rows["grants"] += [
            (
                number,
                lot.number,
                *self.made.get(lot.number, ("", 0)),
                lot.priority,
                lot.expires_at,
                lot.remaining,
                lot.held,
            )
            for lot in account.lots.values()
        ]
        self.rows["holds"] += [
            (UUID(hold), number, account.remaining(hold), stored.pins_text(account.pins(hold)))
            for hold in account.holds
        ]
        self.account = None

    async def flush(self, connection: asyncpg.Connection) -> None:
        """Write the rows so far."""
        for table, rows in self.rows.items():
            if rows:
                await connection.copy_records_to_table(
                    table, schema_name="rebuilt", records=rows, columns=_COLUMNS[table]
                )
                self.written[table] += len(rows)
                rows.clear()


async def _fold_all(connection: asyncpg.Connection, progress: Progress | None) -> _Folding:
    folding = _Folding()
    total = await connection.fetchval(SQL["rebuild_count"], timeout=PATIENCE_S)
    async for rows in chunks(connection, SQL["rebuild_entries"]):
        for row in rows:
            folding.take(row)
        await folding.flush(connection)
        if progress:
            progress(folding.entries, total)
    folding.end()
    await folding.flush(connection)
    return folding


def _entry(row: asyncpg.Record) -> Entry:
    deltas, terms = row["grants"] or (), None
    if row["priority"] is not None:
        terms = GrantTerms(row["priority"], row["expires_at"])
    return Entry(
        0,
        "",
        row["sequence"],
        row["at"],
        row["kind"],
        row["amount"],
        row["held_delta"],
        row["debt_delta"],
        row["balance"],
        row["held"],
        row["debt"],
        row["hold_id"].bytes if row["hold_id"] else None,
        grants=tuple(_triples(deltas)),
        terms=terms,
    )


def _triples(deltas: Any) -> Iterator[tuple[int, int, int]]:
    for n in range(0, len(deltas), 3):
        yield deltas[n], deltas[n + 1], deltas[n + 2]


async def _compare(
    connection: asyncpg.Connection, folding: _Folding
) -> tuple[list[Difference], int]:
    """List what differs, account by account, and count it all."""
    found: list[tuple[int, str, str | None, str | None]] = [
        (number, "entries", None, why) for number, why in list(folding.unsound.items())[:SHOWN]
    ]
    total = len(folding.unsound)
    for check in _CHECKS:
        rows = await connection.fetch(SQL[f"differing_{check}"], SHOWN, timeout=PATIENCE_S)
        found += [(r["account_id"], r["what"], r["live"], r["rebuilt"]) for r in rows]
        total += rows[0]["total"] if rows else 0
    named = await connection.fetch(
        SQL["names_of_accounts"], sorted({number for number, *_ in found})
    )
    names = {r["account_id"]: r["name"] for r in named}
    found.sort(key=lambda difference: difference[:2])
    return [
        Difference(names.get(number, f"#{number}"), what, live, made)
        for number, what, live, made in found
    ], total
