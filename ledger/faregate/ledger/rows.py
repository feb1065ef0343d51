"""Put new rows into tables: many with COPY, a few of several tables in one round trip."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import asyncpg

from faregate.events.records import dataclass

FEW = 16
"""So many rows of a table go with the others in one statement; more are cheaper with COPY, which
takes two round trips for each table."""

_TYPES = {
    "bigint": "id account_id sequence amount held_delta debt_delta balance held debt outcome_id "
    "user_id org_id units input_tokens output_tokens payer_id remaining usage_expected number "
    "member_id",
    "integer": "price_version source_id items usage_settled priority",
    "smallint": "entries batch_size calls",
    "uuid": "event_key usage_key fingerprint seal cause hold_id pipeline_key",
    "timestamptz": "at occurred_at expires_at",
    "boolean": "byok",
    "bytea": "hash",
    "jsonb": "body phases pruned pins member_pins",
}
_TYPE_OF = {column: name for name, columns in _TYPES.items() for column in columns.split()}
"""What is not in here is text."""

_LISTS = {"grants": "bigint[]"}
"""Columns that hold lists: `unnest` would take those apart, so they go as text."""

_PARAMETER = re.compile(r"\$(\d+)")


@dataclass(frozen=True, slots=True)
class Rows:
    """New rows of a table."""

    table: str
    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Change:
    """A statement and what goes into it."""

    sql: str
    values: Sequence[Any]


_NOTHING = Change("SELECT WHERE false", ())


async def put_rows(connection: asyncpg.Connection, new: Rows) -> None:
    """Insert rows in their order, all or none. Raises the driver's errors."""
    if len(new.rows) > FEW:
        await connection.copy_records_to_table(new.table, records=new.rows, columns=new.columns)
    elif new.rows:
        change = insertion(new)
        await connection.execute(change.sql, *change.values)


def insertion(new: Rows) -> Change:
    """Make the statement that inserts some rows: one array for each column, or just the one row.

    The driver looks at each value of an array several times over.
    """
    if len(new.rows) == 1:
        return Change(_insert_one(new.table, new.columns), new.rows[0])
    values: list[Sequence[Any]] = list(zip(*new.rows, strict=True))
    for n, column in enumerate(new.columns):
        if column in _LISTS:
            values[n] = [v and "{" + ",".join(map(str, v)) + "}" for v in values[n]]
    return Change(_insert(new.table, new.columns), values)


async def change_all(
    connection: asyncpg.Connection, changes: Sequence[Change], last: Change | None = None
) -> list[asyncpg.Record]:
    """Make changes to different rows, in one round trip; give what the query `last` does.

    Each of them sees the tables as they were before.
    """
    last = last or _NOTHING
    sql = _together(tuple((c.sql, len(c.values)) for c in changes), last.sql)
    values = (value for c in (*changes, last) for value in c.values)
    rows: list[asyncpg.Record] = await connection.fetch(sql, *values)
    return rows


@lru_cache(64)
def _together(changes: tuple[tuple[str, int], ...], last: str) -> str:
    """Make one statement of many. PostgreSQL runs what stands in WITH from the last to the first.

    No result rests on that: the rows differ. It keeps the order in which writers lock keys.
    """
    parts, before = [], 0
    for n, (sql, count) in enumerate(changes):
        parts.append(f"c{n} AS ({_numbered(sql, before)})")
        before += count
    return f"WITH {', '.join(reversed(parts))} {_numbered(last, before)}"


def _numbered(sql: str, after: int) -> str:
    bare = sql.rstrip().removesuffix(";")
    return _PARAMETER.sub(lambda found: f"${int(found[1]) + after}", bare)


@lru_cache(32)
def _insert(table: str, columns: tuple[str, ...]) -> str:
    arrays = ", ".join(f"${n}::{_TYPE_OF.get(c, 'text')}[]" for n, c in enumerate(columns, 1))
    names = ", ".join(columns)
    taken = ", ".join(f"{c}::{_LISTS[c]}" if c in _LISTS else c for c in columns)
    source = f"unnest({arrays}) AS new ({names})"
    return f"INSERT INTO {table} ({names}) SELECT {taken} FROM {source}"  # noqa: S608 - our names


@lru_cache(32)
def _insert_one(table: str, columns: tuple[str, ...]) -> str:
    values = ", ".join(
        f"${n}::{_LISTS.get(c) or _TYPE_OF.get(c, 'text')}" for n, c in enumerate(columns, 1)
    )
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({values})"  # noqa: S608 - our names
