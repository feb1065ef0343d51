"""Changing a ledger behind its back, as somebody with all rights on the server could."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from tests.helpers.ledger import Ledger

from faregate.ledger import chain
from faregate.ledger.verify import Checkpoint

_GUARDED = ("entries", "outcomes", "price_versions")
_CONSTRAINTS = (
    ("entries", "entries_kind_check"),
    ("accounts", "accounts_check1"),
    ("subjects", "subjects_subject_check"),
    ("pipelines", "pipelines_check"),
)


async def live(ledger: Ledger) -> None:
    """Let a ledger see some of everything: holds in all states, debts, denials, the unpriced."""
    await ledger.set_balance("org:acme", 10_000)
    await ledger.set_balance("org:plain", 1_000, reason="first order")
    await ledger.grant("org:plain", 250)
    await ledger.grant("org:plain", 50, kind="bonus")
    await ledger.request("live", org="acme", items=10)
    await ledger.usage("live", org="acme", units=5)
    await ledger.completed("live", "spellcheck", batch_id="b", org="acme")
    await ledger.request("free", pipeline="nlp", user="alice")
    await ledger.set_balance("user:alice", 50)
    await ledger.request("done", user="alice", items=5)
    await ledger.usage("done", user="alice", units=4)
    await ledger.finish("done", user="alice", usage_events=1)
    await ledger.request("done", user="alice", items=4)
    await ledger.finish("done", user="alice")
    await ledger.usage(user="alice", phase=None, units=None, model="gpt", input_tokens=9)
    await ledger.usage(user="alice", byok=True)
    await ledger.usage(user="bob", units=3)
    await ledger.grant("user:bob", 2)
    await ledger.usage(user="bob", units=7)
    await ledger.request("denied", user="carol")
    await ledger.set_balance("user:dave", 45)
    await ledger.request("dave", user="dave", items=10)
    await ledger.usage(user="dave", units=10)
    await ledger.finish("dave", user="dave", usage_events=0)
    make = ledger.make
    await ledger.apply(*[make.usage("live", org="acme", units=n % 3) for n in range(10)])


@asynccontextmanager
async def tampering(url: str) -> AsyncIterator[asyncpg.Connection]:
    """Open a transaction in which nothing is refused. It is rolled back at the end."""
    connection = await asyncpg.connect(url, timeout=10)
    try:
        transaction = connection.transaction(isolation="repeatable_read")
        await transaction.start()
        for table in _GUARDED:
            await connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER append_only")
        for table, name in _CONSTRAINTS:
            await connection.execute(f"ALTER TABLE {table} DROP CONSTRAINT {name}")
        yield connection
        await transaction.rollback()
    finally:
        await connection.close()


async def cover_up(connection: asyncpg.Connection) -> None:
    """Put the triggers back, so that only the rows tell."""
    for table in _GUARDED:
        await connection.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER append_only")


async def announced(connection: Any) -> list[Checkpoint]:
    """Give a checkpoint of every entry, as if each had been announced."""
    rows = await connection.fetch(
        "SELECT s.subject, e.* FROM entries e JOIN subjects s USING (account_id) ORDER BY e.id"
    )
    names = ("subject", "sequence", "balance", "held", "debt", "hash")
    return [Checkpoint(*(row[name] for name in names)) for row in rows]


async def account_id(connection: Any, subject: str) -> int:
    """Give the number of an account."""
    number = await connection.fetchval(
        "SELECT account_id FROM subjects WHERE subject = $1", subject
    )
    assert isinstance(number, int)
    return number


async def seal_row(connection: asyncpg.Connection, account: int, sequence: int) -> None:
    """Give one entry the hash that it would have had, whatever follows it."""
    rows = await _rows(connection, account)
    previous = next((r["hash"] for r in rows if r["sequence"] == sequence - 1), chain.GENESIS)
    row = next(r for r in rows if r["sequence"] == sequence)
    await _put_hash(connection, row, chain.entry_hash(previous, _columns(row)))


async def rewrite(
    connection: asyncpg.Connection, account: int, change: Callable[[dict[str, Any]], None]
) -> None:
    """Change entries of an account and make all of it fit again: values, hashes, its own row."""
    head, balance, held, debt = chain.GENESIS, 0, 0, 0
    rows = await _rows(connection, account)
    for row in rows:
        change(row)
        balance, held = balance + row["amount"], held + row["held_delta"]
        debt += row["debt_delta"]
        row.update(balance=balance, held=held, debt=debt)
        head = chain.entry_hash(head, _columns(row))
        await connection.execute(
            "UPDATE entries SET amount = $2, balance = $3, held = $4, debt = $5 WHERE id = $1",
            *(row[name] for name in ("id", "amount", "balance", "held", "debt")),
        )
        await _put_hash(connection, row, head)
    await match_account(connection, account)


async def cut_off(connection: asyncpg.Connection, account: int, count: int) -> list[int]:
    """Delete the newest entries of an account; give the ids of their outcomes."""
    rows = await connection.fetch(
        "DELETE FROM entries WHERE id IN (SELECT id FROM entries WHERE account_id = $1 "
        "ORDER BY sequence DESC LIMIT $2) RETURNING outcome_id",
        account,
        count,
    )
    return [row["outcome_id"] for row in rows]


async def match_account(connection: asyncpg.Connection, account: int) -> None:
    """Make the account's row say what its newest entry says."""
    await connection.execute(
        "UPDATE accounts a SET balance = e.balance, held = e.held, debt = e.debt, "
        "sequence = e.sequence, chain_head = e.hash, last_at = e.at, checkpointed = 0 "
        "FROM (SELECT * FROM entries WHERE account_id = $1 ORDER BY sequence DESC LIMIT 1) e "
        "WHERE a.id = $1",
        account,
    )


async def forget_outcomes(connection: asyncpg.Connection, ids: Iterable[int]) -> None:
    """Delete outcomes and what callers called them."""
    for table, column in (("outcomes", "id"), ("refs", "outcome_id"), ("unpriced", "outcome_id")):
        await connection.execute(f"DELETE FROM {table} WHERE {column} = ANY ($1)", list(ids))


async def _rows(connection: asyncpg.Connection, account: int) -> list[dict[str, Any]]:
    rows = await connection.fetch(
        "SELECT * FROM entries WHERE account_id = $1 ORDER BY sequence", account
    )
    return [dict(row) for row in rows]


def _columns(row: dict[str, Any]) -> list[Any]:
    return [row[name] for name in chain.COLUMNS]


async def _put_hash(connection: asyncpg.Connection, row: dict[str, Any], digest: bytes) -> None:
    await connection.execute("UPDATE entries SET hash = $2 WHERE id = $1", row["id"], digest)
