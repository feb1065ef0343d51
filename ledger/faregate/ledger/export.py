"""`export`: entries as CSV, exact, in the order of their ids, streamed.

Amounts are credits as decimals, times RFC 3339 in UTC, accounts subjects. A text that a
spreadsheet would take for a formula (it begins with `=`, `+`, `-`, `@`, a tab or a line break), or
that begins with an apostrophe itself, gets an apostrophe before it: strip one to have it back.
Numbers are never touched.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TextIO

import asyncpg

from faregate.events.amounts import MICRO
from faregate.ledger.scan import PATIENCE_S, SQL, Progress, chunks, one_state

COLUMNS = (
    "id",
    "account",
    "sequence",
    "at",
    "kind",
    "amount",
    "held_delta",
    "debt_delta",
    "balance",
    "held",
    "available",
    "debt",
    "user",
    "org",
    "pipeline_id",
    "usage_id",
    "hold_id",
    "phase",
    "provider",
    "model",
    "units",
    "input_tokens",
    "output_tokens",
    "byok",
    "occurred_at",
    "price_version",
    "tier",
    "reason",
    "grants",
    "priority",
    "expires_at",
    "alert",
    "event_id",
    "correlation_id",
    "outcome_id",
    "hash",
    "charge_id",
)

_RISKY = ("=", "+", "-", "@", "\t", "\r", "\n", "'")
_AMOUNTS = ("amount", "held_delta", "debt_delta", "balance", "held", "debt")
_TIMES = ("at", "occurred_at", "expires_at")
_TEXTS = (
    "account",
    "user",
    "org",
    "pipeline_id",
    "usage_id",
    "phase",
    "provider",
    "model",
    "tier",
    "reason",
    "alert",
    "event_id",
    "correlation_id",
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which entries: of one account (a number), from a time on, before a time.

    `allocations`: those of members' allocations too, which are limits and no credits.
    """

    account_id: int | None = None
    start: datetime | None = None
    end: datetime | None = None
    allocations: bool = False

    def arguments(self) -> tuple[Any, ...]:
        """Give the parameters of the statements. One account is given whatever it is."""
        allocations = self.allocations or self.account_id is not None
        return self.account_id, self.start, self.end, allocations


async def export(
    pool: asyncpg.Pool, wanted: Wanted, file: TextIO, progress: Progress | None = None
) -> int:
    """Write entries of one snapshot to `file`, after a line with COLUMNS; give their number."""
    done = 0
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    arguments = wanted.arguments()
    async with pool.acquire() as connection, one_state(connection):
        total = 0
        if progress:
            total = await connection.fetchval(SQL["export_count"], *arguments, timeout=PATIENCE_S)
        async for rows in chunks(connection, SQL["export_entries"], *arguments):
            writer.writerows(line(row) for row in rows)
            done += len(rows)
            if progress:
                progress(done, total)
    return done


def line(row: asyncpg.Record) -> list[object]:
    """Give an entry's cells; the writer of the file writes whole numbers and None (empty) itself."""
    values = dict(row)
    for name in _AMOUNTS:
        values[name] = decimal(values[name])
    values["available"] = decimal(row["balance"] - row["held"])
    if row["grants"]:
        values["grants"] = " ".join(_grants(row["grants"]))
    values["hash"] = row["hash"].hex()
    for name in _TEXTS:
        if values[name] is not None:
            values[name] = safe(values[name])
    for name in _TIMES:
        if values[name] is not None:
            values[name] = values[name].astimezone(UTC).isoformat().replace("+00:00", "Z")
    if values["byok"] is not None:
        values["byok"] = "true" if values["byok"] else "false"
    return [values[name] for name in COLUMNS]


def decimal(micro: int) -> str:
    """Write micro-credits exactly, as a plain decimal: `-2.5`."""
    whole, rest = divmod(abs(micro), MICRO)
    text = f"{whole}.{rest:06d}".rstrip("0") if rest else str(whole)
    return f"-{text}" if micro < 0 else text


def safe(text: str) -> str:
    """Write a text so that no spreadsheet runs it."""
    return f"'{text}" if text.startswith(_RISKY) else text


def _grants(deltas: Sequence[int]) -> Iterator[str]:
    """Write what an entry did to each grant: `number:change:change of what is held`."""
    for n in range(0, len(deltas), 3):
        yield f"{deltas[n]}:{decimal(deltas[n + 1])}:{decimal(deltas[n + 2])}"
