"""Outcomes against their seals: one that was changed, inserted or deleted is named."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import asyncpg

from faregate.ledger.keys import Keys
from faregate.ledger.verify_report import Findings
from faregate.ledger.verify_rows import PATIENCE_S, SQL
from faregate.ledger.verify_streams import Cursor, Row
from faregate.ledger.write import TX_BITS, canonical, outcome_seal


async def check_seals(
    connection: asyncpg.Connection, findings: Findings, keys: Keys, since: datetime | None
) -> None:
    """Seal every outcome again, and count those of each transaction."""
    outcomes = Cursor(connection, SQL["outcome_seals"], since)
    while rows := await outcomes.chunk():
        for row in rows:
            if not _sealed(keys, row):
                where = f"id {row['id']} ({row['command']}, {row['result']})"
                message = "it does not fit its seal: it was changed or put in by hand"
                findings.add("seal", "outcomes", where, message)
    incomplete = await connection.fetch(SQL["incomplete_batches"], since, timeout=PATIENCE_S)
    for row in incomplete:
        message = f"its transaction wrote {row['batch_size']} outcomes, {row['found']} are there"
        where = f"ids from {row['tx'] << TX_BITS} (id {row['id']} is one that is left)"
        findings.add("batch", "outcomes", where, message)


def _sealed(keys: Keys, row: Row) -> bool:
    values = list(row.values())
    at, body = row["at"], row["body"]
    values[10] = None if body is None else canonical(json.loads(body))
    seal: bytes = row["seal"].bytes
    return outcome_seal(keys, values, at.astimezone(UTC).isoformat()) == seal
