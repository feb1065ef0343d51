"""Put new rows into a table: many with COPY, a few with one pipelined INSERT."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import asyncpg

FEW = 16
"""So many rows take one round trip with INSERT; COPY takes two, and is cheaper for more rows."""


async def put_rows(
    connection: asyncpg.Connection, table: str, columns: Sequence[str], rows: list[tuple[Any, ...]]
) -> None:
    """Insert `rows` in their order, all or none. Raises the driver's errors."""
    if len(rows) > FEW:
        await connection.copy_records_to_table(table, records=rows, columns=columns)
    elif rows:
        await connection.executemany(_insert(table, tuple(columns)), rows)


@lru_cache(32)
def _insert(table: str, columns: tuple[str, ...]) -> str:
    values = ", ".join(f"${n}" for n in range(1, len(columns) + 1))
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({values})"  # noqa: S608 - our names
