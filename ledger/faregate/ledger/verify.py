"""`verify`: recompute the ledger from its entries and name every row that does not fit (rule 5).

No cached balance is trusted. Amounts, sequences and the hash chain of every account are recomputed
from the entries, and so is what is left of every grant; accounts, outcomes, holds, allocations,
refunds, references and subjects are compared with them, and all of it with the checkpoints that
were announced outside of the database. Outcomes have seals, plans must be what the outcomes say,
usage is priced again from the book that it names, and the audit log has a chain of its own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from datetime import datetime
from time import monotonic

import asyncpg

from faregate.ledger.keys import Keys
from faregate.ledger.queries import SQL as STORE_SQL
from faregate.ledger.verify_accounts import check_chains, check_members
from faregate.ledger.verify_audit import check_audit
from faregate.ledger.verify_outcomes import check_seals
from faregate.ledger.verify_prices import check_prices
from faregate.ledger.verify_report import Checkpoint, Finding, Findings, Report
from faregate.ledger.verify_rows import PATIENCE_S, SQL, check_rows, check_triggers, notes
from faregate.ledger.verify_streams import check_checkpoints, check_refs

__all__ = ["Checkpoint", "Finding", "Report", "check_triggers", "verify"]

_LIMITS = {
    # A verification of millions of rows outlives the limits for decisions; it locks nothing. One
    # whose process has been stopped still ends.
    "transaction_timeout": "0",
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "60s",
    "work_mem": "64MB",
    "cursor_tuple_fraction": "1.0",  # all rows are read, so the whole is to be cheap
}


async def verify(
    connection_or_pool: asyncpg.Connection | asyncpg.Pool,
    *,
    checkpoints: Iterable[Checkpoint] | None = None,
    since: datetime | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Check the whole ledger in one REPEATABLE READ, READ ONLY transaction.

    `checkpoints` must have been read before the call. With `since` (timezone-aware), accounts with
    entries from then on are checked, whole, and outcomes from then on. `progress` gets the entries
    done and all entries. A connection that is in a transaction already is used within it. Raises
    the driver's errors when the database cannot be read; never for what is in it.
    """
    begun = monotonic()
    if isinstance(connection_or_pool, asyncpg.Pool):
        async with connection_or_pool.acquire() as connection:
            return await _verify(connection, checkpoints, since, progress, begun)
    return await _verify(connection_or_pool, checkpoints, since, progress, begun)


async def _verify(
    connection: asyncpg.Connection,
    checkpoints: Iterable[Checkpoint] | None,
    since: datetime | None,
    progress: Callable[[int, int], None] | None,
    begun: float,
) -> Report:
    findings = Findings()
    async with _snapshot(connection):
        ledger = await connection.fetchrow(STORE_SQL["ledger"])
        keys = Keys(ledger["hash_key"])
        total = 0
        if progress:
            total = await connection.fetchval(SQL["entry_count"], since, timeout=PATIENCE_S)

        def report(done: int) -> None:
            if progress:
                progress(done, total)

        entries, accounts = await check_chains(connection, findings, keys, since, report)
        await check_rows(connection, findings, since)
        await check_seals(connection, findings, keys, since)
        await check_refs(connection, findings, keys, since)
        await check_members(connection, findings, keys)
        await check_prices(connection, findings, since)
        await check_audit(connection, findings, keys)
        announced, superseded = await check_checkpoints(
            connection, findings, keys, checkpoints or ()
        )
        guards = await check_triggers(connection)
        informational = await notes(connection)
        subjects = await connection.fetch(SQL["subjects"], list(findings.accounts()))
    named = findings.named({r["account_id"]: r["subject"] for r in subjects})
    return Report(
        entries=entries,
        accounts=accounts,
        checkpoints=announced,
        superseded=superseded,
        findings=guards + named,
        findings_total=findings.total + len(guards),
        notes=informational,
        seconds=round(monotonic() - begun, 3),
    )


@asynccontextmanager
async def _snapshot(connection: asyncpg.Connection) -> AsyncIterator[None]:
    """Read one state of the database throughout, without the limits meant for decisions."""
    if connection.is_in_transaction():
        inner = connection.transaction()
        await inner.start()
        yield
        await inner.rollback()  # closes the cursors; there is nothing else to undo
        return
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        for setting, value in _LIMITS.items():
            await connection.execute(f"SET LOCAL {setting} = '{value}'")
        yield
