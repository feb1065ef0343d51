"""Why a pipeline was let in or denied, and what a piece of usage cost, from the ledger's rows.

Identifiers are found by their keyed hashes, or by what callers called things (`refs`). Values are
JSON-ready, amounts in credits. `explain_story` puts them in plain words.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import asyncpg
from asyncpg.pgproto.pgproto import UUID

from faregate.events.amounts import to_credits
from faregate.ledger import bodies
from faregate.ledger.acts_sending import READING
from faregate.ledger.core import Book, Books
from faregate.ledger.core.messages import denial_message
from faregate.ledger.pricing import price_books
from faregate.ledger.queries import SQL
from faregate.ledger.reading import entries as read_entries
from faregate.ledger.store import Store
from faregate.runtime.computed import priced_phases
from faregate.runtime.explain_charge import charge_facts, entries_of, refunds

Value = dict[str, Any]


async def explain(store: Store, identifier: str) -> Value | None:
    """Tell all that the ledger knows of a pipeline_id or usage_id; None when it knows nothing."""
    async with store.pool.acquire() as connection:
        await connection.execute(SQL["patience"])
        books = await price_books(connection)
        pipeline = await _pipeline(store, connection, books, identifier)
        usages = await _usages(store, connection, books, identifier)
    if pipeline is None and not usages:
        return None
    return {"id": identifier, "pipeline": pipeline, "usages": usages}


async def _pipeline(
    store: Store, connection: asyncpg.Connection, books: Books, pipeline_id: str
) -> Value | None:
    key = UUID(store.keys.pipeline(pipeline_id))
    row = await connection.fetchrow(SQL["pipelines"], [key])
    outcomes = await connection.fetch(SQL["outcomes_of_pipeline"], pipeline_id)
    if row is None and not outcomes:
        return None
    entries = await entries_of(connection, outcomes)
    if row and row["hold_id"]:
        entries += await connection.fetch(
            SQL["entries_of_hold"], row["payer_id"], row["hold_id"], row["outcome_id"]
        )
    charges = {e["outcome_id"] for e in entries if e["kind"] == "usage"}
    keys = [o["event_key"] for o in outcomes if o["id"] in charges]
    refunded, back = await refunds(store, connection, keys)
    unique = sorted({e["id"]: e for e in [*entries, *back]}.values(), key=lambda e: e["id"])
    requests = [o for o in outcomes if o["command"] == "request"]
    readable = await read_entries(store, unique)
    own = [e for e in readable if not e["account"].startswith("member:")]
    return {
        "pipeline_id": pipeline_id,
        "decisions": [await _decision(store, connection, books, o) for o in requests],
        "hold": await _hold(store, row),
        "progress": [_progress(o) for o in outcomes if o["command"] in _PROGRESS],
        "usage": _usage_sums(outcomes, own, refunded),
        "refunds": refunded,
        "released": [
            {"at": e["at"], "credits": -e["held_delta"], "reason": e.get("reason")}
            for e in own
            if e["kind"] == "release"
        ],
        "entries": readable,
    }


_PROGRESS = ("phase_completed", "finished")


def _progress(outcome: asyncpg.Record) -> Value:
    body = json.loads(outcome["body"]) if outcome["body"] else {}
    return {"at": outcome["at"].isoformat(), "what": outcome["command"], **body}


async def _decision(
    store: Store, connection: asyncpg.Connection, books: Books, row: asyncpg.Record
) -> Value:
    stored = json.loads(row["body"])
    involved = bodies.accounts_in(stored) | {i for i in (row["user_id"], row["org_id"]) if i}
    subjects = await store.names.subjects(involved, connection)
    body = bodies.to_public(stored, subjects)
    denied = row["result"] == "denied"
    book = _book(books, body.get("price_version"), row["at"])
    value: Value = {
        "at": row["at"].isoformat(),
        "result": row["result"],
        "source": row["source"],
        "event_id": row["event_id"],
        "batch_id": row["batch_id"],
        "user": subjects[row["user_id"]],
        "org": subjects[row["org_id"]] if row["org_id"] else None,
        "pipeline": body["pipeline"],
        "items": body["items"],
        "phases": priced_phases(book, body["phases"], body["items"]),
        "pruned_phases": body["pruned"],
        "price_version": book.version if book else None,
        "required_credits": to_credits(body["required"] if denied else body["reserved"]),
    }
    if denied:
        value |= {
            "reason": body["reason"],
            "status": body["status"],
            "considered": _considered(body["considered"], body["debts"]),
            "message": denial_message(body),
        }
        return value
    considered = await _had(connection, row, subjects)
    return value | {
        "payer": body["payer"],
        "reserved_credits": to_credits(body["reserved"]),
        "hold_id": body["hold_id"],
        "hold_expires_at": body["hold_expires_at"],
        "considered": considered,
    }


def _book(books: Books, version: int | None, at: datetime) -> Book | None:
    """Give the book that a decision used: the one it names, else the one in force at its time."""
    return books.versions.get(version) if version else books.in_force(at)


def _considered(payers: Sequence[Mapping[str, Any]], debts: Sequence[str]) -> list[Value]:
    return [
        {
            "payer": p["payer"],
            "available": to_credits(p["available"]),
            "in_debt": p["payer"] in debts,
        }
        for p in payers
    ]


async def _had(
    connection: asyncpg.Connection, row: asyncpg.Record, subjects: Mapping[int, str]
) -> list[Value]:
    """Read what each account that could have paid had before a request was let in."""
    found = []
    for account_id in (i for i in (row["org_id"], row["user_id"]) if i):
        before = await connection.fetchrow(SQL["account_before"], account_id, row["id"])
        balance, held, debt = tuple(before) if before else (0, 0, 0)
        found.append(
            {
                "payer": subjects[account_id],
                "available": to_credits(balance - held),
                "in_debt": debt > 0,
            }
        )
    return found


async def _hold(store: Store, row: asyncpg.Record | None) -> Value | None:
    if row is None or row["hold_id"] is None:
        return None
    subjects = await store.names.subjects([row["payer_id"]])
    return {
        "hold_id": str(row["hold_id"]),
        "payer": subjects[row["payer_id"]],
        "state": row["state"],
        "price_version": row["price_version"],
        "amount": to_credits(row["amount"]),
        "remaining": to_credits(row["remaining"]),
        "expires_at": row["expires_at"].isoformat(),
        "usage_settled": row["usage_settled"],
        "usage_expected": row["usage_expected"],
    }


def _usage_sums(
    outcomes: Sequence[asyncpg.Record], entries: Sequence[Value], refunded: Sequence[Value]
) -> Value:
    """Sum up what usage cost its payers, and what of that is `left` charged after refunds."""
    used = [e for e in entries if e["kind"] == "usage"]
    cost, back = (
        _sum(-e["amount"] + e["debt_delta"] for e in used),
        [r["credits"] for r in refunded],
    )
    return {
        "events": len(used),
        "cost": cost,
        "from_hold": _sum(-e["held_delta"] for e in used),
        "from_balance": _sum(-e["amount"] + e["held_delta"] for e in used),
        "debt": _sum(e["debt_delta"] for e in used),
        "refunded": _sum(back),
        "left": _sum([cost, -_sum(back)]),
        "unpriced": sum(o["result"] == "unpriced" for o in outcomes)
        - sum(o["command"] == "charge_unpriced" for o in outcomes),
    }


def _sum(amounts: Any) -> int | float:
    total = round(sum(amounts), 6)
    return int(total) if total == int(total) else total


_WAITING = ("units", "provider", "input_tokens", "output_tokens")


async def _usages(
    store: Store, connection: asyncpg.Connection, books: Books, usage_id: str
) -> list[Value]:
    """Find usage by its keyed hash, and what callers deducted under that name."""
    sources = [r["source"] for r in await connection.fetch(SQL["all_sources"])]
    keys = {UUID(store.keys.usage(source, usage_id)): source for source in sources}
    rows = await connection.fetch(SQL["outcomes_of_keys"], [], list(keys))
    asked = await connection.fetch(READING["outcomes_of_reference"], usage_id)
    known = {r["event_key"] for r in rows}
    more = await connection.fetch(SQL["outcomes_of_keys"], [r["event_key"] for r in asked], [])
    found = [(r, keys[r["usage_key"]]) for r in rows]
    found += [(r, r["source"]) for r in more if r["event_key"] not in known]
    return [await _usage(store, connection, books, row, source, usage_id) for row, source in found]


async def _usage(
    store: Store,
    connection: asyncpg.Connection,
    books: Books,
    row: asyncpg.Record,
    source: str,
    usage_id: str,
) -> Value:
    outcomes, late = [row], None
    if row["result"] == "unpriced":
        charge = UUID(store.keys.late_charge(row["event_key"].bytes))
        late = await connection.fetchrow(SQL["outcomes_of_keys"], [charge], [])
        outcomes += [late] if late else []
    rows = await entries_of(connection, outcomes)
    refunded, back = await refunds(store, connection, [(late or row)["event_key"]])
    readable = await read_entries(store, [*rows, *back])
    paid = [e for e in readable if e["kind"] == "usage"]
    used = next((e for e in paid if not e["account"].startswith("member:")), None)
    body = json.loads(row["body"]) if row["body"] else {}
    if row["result"] == "unpriced" and late is None:
        waiting = await connection.fetchrow(READING["unpriced_usage"], row["id"])
        body |= {n: waiting[n] for n in _WAITING} if waiting else {}
    value: Value = {
        "usage_id": usage_id,
        "source": source,
        "event_id": row["event_id"],
        "pipeline_id": row["pipeline_id"],
        "decided_at": row["at"].isoformat(),
        "charged_at": used["at"] if used else None,
        "result": "charged" if used else row["result"],
        "priced_late": late is not None,
    }
    for name in ("phase", "units", "provider", "model", "input_tokens", "output_tokens", "byok"):
        value[name] = (used or body).get(name)
    if used:
        cost = _sum([-used["amount"], used["debt_delta"]])
        value |= {
            "payer": used["account"],
            "price_version": used.get("price_version"),
            "cost": cost,
            "from_hold": -used["held_delta"],
            "from_balance": _sum([-used["amount"], used["held_delta"]]),
            "debt": used["debt_delta"],
            "hold_id": used.get("hold_id"),
            **await charge_facts(store, connection, books, rows),
            "refund": refunded[0] if refunded else None,
            "left": _sum([cost, *(-r["credits"] for r in refunded)]),
        }
    return value | {"entries": readable}
