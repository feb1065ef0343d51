"""The audit log: its chain from the first row on, who acted, and the outcomes that it names.

What cannot be seen from within: rows cut off at the end. Nothing outside remembers them.
"""

from __future__ import annotations

from collections.abc import Iterator

import asyncpg

from faregate.ledger.audit import GENESIS, row_hash
from faregate.ledger.keys import Keys
from faregate.ledger.verify_report import Findings
from faregate.ledger.verify_rows import SQL
from faregate.ledger.verify_streams import Cursor, Row

_HASHED = ("id", "at", "actor_key", "action", "result", "account_id", "outcome_id", "metadata")
_OUTCOMES = {"add_grant": "grant"}
"""Actions whose outcome is named otherwise."""


async def check_audit(connection: asyncpg.Connection, findings: Findings, keys: Keys) -> None:
    """Recompute the whole log. A row that was changed is named once, and so is a gap."""
    cursor, log = Cursor(connection, SQL["audit"]), _Log(findings, keys)
    while rows := await cursor.chunk():
        for row in rows:
            log.check(row)


class _Log:
    """Follows the log from row to row, by what a row says and by what it should have said."""

    def __init__(self, findings: Findings, keys: Keys) -> None:
        self._findings = findings
        self._keys = keys
        self._id = 0
        self._heads = [GENESIS]

    def check(self, row: Row) -> None:
        """Check the next row."""
        gap = row["id"] != self._id + 1
        hashes = [_hash(head, row) for head in self._heads]
        fits = row["hash"] in hashes
        wrong = list(self._wrong(row))
        if gap:  # then the hash before this one is not known
            wrong.insert(0, f"{_missing(self._id + 1, row['id'] - 1)} before this one")
        elif not fits:
            message = "the hash does not follow from this row and the one before: one was changed"
            wrong.insert(0, message)
        if wrong:
            where = f"id {row['id']} ({row['action']})"
            self._findings.add("audit", "audit", where, "; ".join(wrong), row["account_id"])
        self._id = row["id"]
        self._heads = [row["hash"]] if gap or fits else [row["hash"], hashes[0]]

    def _wrong(self, row: Row) -> Iterator[str]:
        if row["actor"] is not None and self._keys.actor(row["actor"]) != row["actor_key"].bytes:
            yield "the actor does not hash to actor_key"
        if row["outcome_id"] is None:
            return
        if row["command"] is None:
            yield f"its outcome {row['outcome_id']} is missing"
        elif row["command"] != _OUTCOMES.get(row["action"], row["action"]):
            yield f"its outcome {row['outcome_id']} is one of {row['command']}"


def _hash(previous: bytes, row: Row) -> bytes:
    """Hash a row; one that holds what no Python reads has no hash."""
    try:
        return row_hash(previous, [row[name] for name in _HASHED])
    except (ValueError, OverflowError, RecursionError):
        return b""


def _missing(first: int, last: int) -> str:
    if last < first:
        return f"the log goes on at {first}: this id cannot stand"
    return f"row {first} is missing" if first == last else f"rows {first} to {last} are missing"
