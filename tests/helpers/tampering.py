"""Changing a ledger behind its back, as somebody with all rights on the server could."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
from tests.helpers.ledger import Ledger

from faregate.events.amounts import MICRO
from faregate.ledger import chain, stored
from faregate.ledger.acts_refunds import refund
from faregate.ledger.core import (
    AddGrant,
    Allocate,
    Deduct,
    Release,
    Reserve,
    Rules,
    SetAlerts,
    SetBalance,
    SetMember,
    SetPolicy,
    SetQuota,
    SetTier,
    Settle,
    Unlock,
    Welcome,
)
from faregate.ledger.core.accounts import Grant
from faregate.ledger.queries import SQL
from faregate.ledger.store import open_store
from faregate.ledger.verify import Checkpoint, Report
from faregate.ledger.verify_grants import Lots

_GUARDED = ("entries", "outcomes", "price_versions", "grants", "audit")
_CONSTRAINTS = (
    ("entries", "entries_kind_check"),
    ("accounts", "accounts_check1"),
    ("subjects", "subjects_subject_check"),
    ("pipelines", "pipelines_check"),
)


ACTOR = "ops@example.com"


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
    await _grants(ledger)
    await _allocated(ledger)
    await _tiers(ledger)
    await _models(ledger)


async def _grants(ledger: Ledger) -> None:
    """Erin has grants that burn one after another, a live hold over two, and a refund."""
    soon = datetime.now(UTC) + timedelta(days=20)
    for credits_, priority, expires_at in ((3, 100, None), (4, 100, soon), (2, 10, None)):
        amount = credits_ * MICRO
        await ledger.act(
            lambda i, a=amount, p=priority, e=expires_at: AddGrant(  # type: ignore[misc]
                i, "user:erin", "bonus", a, "thanks", p, e, allocated_by="ops", notes="hello"
            ),
            actor=ACTOR,
        )
    await ledger.usage(user="erin", units=3, usage_id="erins")
    await ledger.request("erins", user="erin", items=3)
    await ledger.usage("erins", user="erin", units=2)
    await refund(ledger.store, actor=ACTOR, key="back", usage_id="erins", reason="goodwill")
    await ledger.act(lambda i: SetBalance(i, "user:erin", 0), actor=ACTOR)  # refused: below_held


async def _allocated(ledger: Ledger) -> None:
    """Pat may spend a part of the school's credits: some of it is spent, some held."""
    org, user = "org:school", "user:pat"
    await ledger.set_balance(org, 500)
    for make in (
        lambda i: SetPolicy(i, org, "allocated"),
        lambda i: SetMember(i, org, user, "admin"),
        lambda i: Allocate(i, org, user, 100 * MICRO, allocated_by="ops"),
        lambda i: Allocate(i, org, user, -20 * MICRO),
    ):
        await ledger.act(make, actor=ACTOR)
    await ledger.request("lesson", user="pat", org="school", items=10)
    await ledger.usage("lesson", user="pat", org="school", units=5)
    await ledger.usage(user="pat", org="school", units=3, usage_id="pats")
    await refund(ledger.store, actor=ACTOR, key="pats", usage_id="pats")
    await ledger.request("lesson 2", user="pat", org="school", items=4)
    await ledger.finish("lesson 2", user="pat", org="school", usage_events=0)


async def _tiers(ledger: Ledger) -> None:
    """Tina is on a tier, with a quota and alerts of her own; Nora was welcomed."""
    for make in (
        lambda i: SetTier(i, "user:tina", "professional"),
        lambda i: SetTier(i, "user:tina", "starter"),  # from the next period on
        lambda i: SetQuota(i, "user:tina", 50),
        lambda i: SetAlerts(i, "user:tina", 50 * MICRO, None),
    ):
        await ledger.act(make, actor=ACTOR)
    await ledger.request("call", user="tina", items=2)
    rules = Rules(provisioning="auto", welcome=Welcome(days=9, milestones=(("first", MICRO),)))
    welcoming = Ledger(await open_store(ledger.store.pool, rules))
    await welcoming.usage(user="nora", units=1)
    await welcoming.act(lambda i: Unlock(i, "user:nora", "first"), actor=ACTOR)


async def _models(ledger: Ledger) -> None:
    """Models of every kind of price are used, and charges that a caller waited for are made."""
    await _price_by_tier(ledger)
    tokens: dict[str, Any] = {"phase": None, "units": None, "input_tokens": 10, "output_tokens": 5}
    for user in ("tina", "nora"):
        await ledger.usage(user=user, model="gpt-4o-mini", provider="openai", **tokens)
        await ledger.usage(user=user, model="openai/gpt-4", **tokens)
        await ledger.usage(user=user, model="house/tutor", **tokens)
        await ledger.usage(user=user, model="tutor", provider="house", byok=True, **tokens)
    await ledger.act(lambda i: Deduct(i, "user:tina", None, 70_000, reason="chat", counts=True))
    await _asked_for(ledger)


async def _asked_for(ledger: Ledger) -> None:
    """Programs hold credits by themselves: one such hold is live, one settled, one released."""
    user, org, keys = "user:pat", "org:school", [bytes([n]) * 16 for n in (1, 2, 3)]
    for key in keys:
        await ledger.act(lambda i, k=key: Reserve(i, user, org, k, 2 * MICRO))  # type: ignore[misc]
    await ledger.act(lambda i: Settle(i, user, org, keys[1], 1_500_000))
    await ledger.act(lambda i: Release(i, user, org, keys[2]))


async def _price_by_tier(ledger: Ledger) -> None:
    """Apply a second price book: the default one, with a model that costs by tier."""
    book = json.loads(await ledger.store.pool.fetchval("SELECT book FROM price_versions"))
    book["models"]["house/tutor"] = {"kind": "tier_rate"}
    book["tiers"] = {
        "free": {"credits": 0, "rate": 3.0},
        "trial": {"credits": 5, "rate": 1.0, "calls": 700},
        "starter": {"credits": 20, "rate": 2.0, "calls": 2000},
        "professional": {"credits": 60, "rate": 5.0, "calls": 10000},
    }
    await ledger.store.pool.execute(SQL["apply_prices"], None, "tests", json.dumps(book))


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


def named(report: Report, kind: str) -> list[str]:
    """List the rows that findings of a kind name."""
    return [finding.row for finding in report.findings if finding.kind == kind]


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
        before = row["amount"]
        change(row)
        if row["amount"] != before:
            row["grants"][-2] += row["amount"] - before
        balance, held = balance + row["amount"], held + row["held_delta"]
        debt += row["debt_delta"]
        row.update(balance=balance, held=held, debt=debt)
        head = chain.entry_hash(head, _columns(row))
        await connection.execute(
            "UPDATE entries SET amount = $2, balance = $3, held = $4, debt = $5, grants = $6 "
            "WHERE id = $1",
            *(row[name] for name in ("id", "amount", "balance", "held", "debt", "grants")),
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
    """Make the account's row, and its grants, say what its entries say."""
    lots = Lots()
    for row in await _rows(connection, account):
        lots.move(_columns(row))
    left = sorted((Grant(n, *lot) for n, lot in lots.left().items()), key=lambda g: g.burn_order)
    await connection.execute(
        "UPDATE accounts a SET balance = e.balance, held = e.held, debt = e.debt, "
        "sequence = e.sequence, chain_head = e.hash, last_at = e.at, checkpointed = 0, "
        "grants = $2, granted = $3 "
        "FROM (SELECT * FROM entries WHERE account_id = $1 ORDER BY sequence DESC LIMIT 1) e "
        "WHERE a.id = $1",
        account,
        stored.grants_text(left),
        lots.granted,
    )
    await connection.execute(
        "DELETE FROM grants WHERE account_id = $1 AND id NOT IN (SELECT id FROM entries)", account
    )
    await connection.execute(
        "UPDATE grants g SET amount = e.grants[cardinality(e.grants) - 1] FROM entries e "
        "WHERE e.id = g.id AND g.account_id = $1",
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
