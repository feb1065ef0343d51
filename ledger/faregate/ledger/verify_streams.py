"""What is hashed again here, row after row, in bounded memory; and what was announced."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Any

import asyncpg
from asyncpg.pgproto.pgproto import UUID

from faregate.ledger.keys import Keys
from faregate.ledger.verify_report import Checkpoint, Findings
from faregate.ledger.verify_rows import PATIENCE_S, SQL
from faregate.ledger.write import TX_BITS

_CHUNK = 5_000
_ERASED = "erased:"

Row = Mapping[str, Any]


class Cursor:
    """Rows of one statement, a chunk at a time."""

    def __init__(self, connection: asyncpg.Connection, statement: str, *arguments: object) -> None:
        self._make = connection.cursor(statement, *arguments, timeout=PATIENCE_S)
        self._cursor: Any = None

    async def chunk(self) -> Sequence[Row]:
        """Give the next rows; none at the end."""
        if self._cursor is None:
            self._cursor = await self._make
        rows: Sequence[Row] = await self._cursor.fetch(_CHUNK, timeout=PATIENCE_S)
        return rows


def text(value: object) -> object:
    """Write a value for a message: hashes in hex."""
    return value.hex() if isinstance(value, bytes) else value


async def check_refs(
    connection: asyncpg.Connection, findings: Findings, keys: Keys, since: datetime | None
) -> None:
    """Hash what callers called things again. What was erased, or never there, says nothing."""
    refs = Cursor(connection, SQL["refs"], since)
    while rows := await refs.chunk():
        for row in rows:
            wrong = list(_wrong_ref(row, keys))
            if wrong:
                findings.add("ref", "refs", f"outcome_id {row['outcome_id']}", "; ".join(wrong))


def _wrong_ref(row: Row, keys: Keys) -> Iterator[str]:
    source, event_id, usage_id = row["source"], row["event_id"], row["usage_id"]
    if row["missing"]:
        yield "its outcome is missing"
        return
    if source is None:
        yield "its source is missing"
        return
    if event_id is not None and keys.event(source, event_id) != row["event_key"].bytes:
        yield "source and event_id do not hash to the outcome's event_key"
    key = row["usage_key"]
    if usage_id is not None and key is not None and keys.usage(source, usage_id) != key.bytes:
        yield "source and usage_id do not hash to the outcome's usage_key"
    named = row["command"] != "deduct"  # there it is the caller's reference, and names nothing
    if named and usage_id is not None and key is None and event_id is not None:
        yield "it has a usage_id, its outcome has no usage_key"
    pipeline_id, key = row["pipeline_id"], row["pipeline_key"]
    if pipeline_id is not None and key is not None and not _names(row, keys):
        yield "pipeline_id does not hash to the pipeline's key"


def _names(row: Row, keys: Keys) -> bool:
    """Tell whether pipeline_id names the pipeline: the hold of a caller has its id for a key."""
    if row["command"] == "reserve":
        return bool(str(row["pipeline_key"]) == row["pipeline_id"])
    return bool(keys.pipeline(row["pipeline_id"]) == row["pipeline_key"].bytes)


async def check_checkpoints(
    connection: asyncpg.Connection,
    findings: Findings,
    keys: Keys,
    checkpoints: Iterable[Checkpoint],
) -> tuple[int, int]:
    """Compare with what was announced; give how many there were and how many are superseded."""
    recoveries = await connection.fetch(SQL["recoveries"])
    source, count, superseded = iter(checkpoints), 0, 0
    while chunk := list(islice(source, _CHUNK)):
        count += len(chunk)
        ids = [_erased_id(c.account) for c in chunk]
        commitments = [
            UUID(keys.subject(c.account)) if n is None else None
            for c, n in zip(chunk, ids, strict=True)
        ]
        rows = await connection.fetch(
            SQL["checkpoints"],
            commitments,
            ids,
            [c.sequence for c in chunk],
            [c.chain_head for c in chunk],
            timeout=PATIENCE_S,
        )
        for checkpoint, row in zip(chunk, rows, strict=True):
            restore = next((r for r in recoveries if r["epoch"] > checkpoint.epoch), None)
            superseded += _compare(findings, checkpoint, row, restore)
    return count, superseded


def _erased_id(account: str) -> int | None:
    number = account.removeprefix(_ERASED)
    return int(number) if number != account and number.isdecimal() else None


def _compare(findings: Findings, said: Checkpoint, row: Row, restore: Row | None) -> bool:
    """Add what differs; say whether the checkpoint is superseded by a restore."""
    where = f"of {said.account} sequence {said.sequence}"
    if row["id"] is None:
        message = _absent(said, row, restore)
        findings.add("checkpoint", "checkpoints", where, message)
        return False
    if restore and row["id"] >= restore["from_tx"] << TX_BITS:
        return True
    announced = (said.balance, said.held, said.debt, said.chain_head)
    names = ("balance", "held", "debt", "hash")
    wrong = [
        f"{name} is {text(row[name])}, {text(value)} was announced"
        for name, value in zip(names, announced, strict=True)
        if row[name] != value
    ]
    if wrong:
        where = f"sequence {said.sequence} (id {row['id']})"
        findings.add("checkpoint", "entries", where, "; ".join(wrong), row["account_id"])
    return False


def _absent(said: Checkpoint, row: Row, restore: Row | None) -> str:
    if row["account_id"] is None:
        what = "this account was announced and is not in the database"
    elif row["newest"] is not None and row["newest"] >= said.sequence:
        what = "this entry was announced and is not in the database"
    else:
        what = f"announced, but the account ends at sequence {row['newest']}"
    if restore is None:
        return f"{what}: it was removed, or the database is older than what Kafka remembers"
    return (
        f"{what}: it was announced before the restore of epoch {restore['epoch']} "
        f"({restore['found_at']:%Y-%m-%d %H:%M}) and has not been replayed since: the money that it "
        "stands for is missing from this database"
    )
