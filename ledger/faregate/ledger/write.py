"""Write what the core decided, with COPY, in the same transaction (rules 4 to 7)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import asyncpg
from asyncpg.pgproto.pgproto import UUID

from faregate.ledger import bodies, chain
from faregate.ledger.batch import Position, Submission
from faregate.ledger.core import Decision, Entry, LedgerFault, Pipeline
from faregate.ledger.load import Loaded
from faregate.ledger.queries import SQL

TX_BITS = 14
"""An id is tx << TX_BITS | n, so one transaction writes at most 2^14 rows to a table."""

_OUTCOME_COLUMNS = (
    "id",
    "event_key",
    "usage_key",
    "fingerprint",
    "command",
    "result",
    "entries",
    "user_id",
    "org_id",
    "at",
    "body",
)
_REF_COLUMNS = (
    "outcome_id",
    "source_id",
    "event_id",
    "pipeline_id",
    "usage_id",
    "batch_id",
    "correlation_id",
    "traceparent",
)
_UNPRICED_COLUMNS = (
    "outcome_id",
    "pipeline_key",
    "user_id",
    "org_id",
    "phase",
    "provider",
    "model",
    "units",
    "input_tokens",
    "output_tokens",
    "occurred_at",
)


class Conflict(Exception):
    """Somebody else used the same pipeline_id in between: take the batch again."""


class WentBack(Exception):
    """The database is older than its reader remembers: read again from the kept offsets."""


def _uuid(key: bytes | None) -> UUID | None:
    return None if key is None else UUID(key)


async def write(
    connection: asyncpg.Connection,
    loaded: Loaded,
    decision: Decision,
    submissions: Sequence[Submission],
    sources: Mapping[str, int],
    checkpoint_every: int,
) -> None:
    """Write a decision: outcomes, entries, accounts, holds, and its outbox row.

    Nothing is written for a batch of duplicates. Raises Conflict (take the batch again).
    """
    if not decision.outcomes:
        return
    if max(len(decision.outcomes), len(decision.entries)) >= 1 << TX_BITS:
        raise LedgerFault(f"a batch may write at most {1 << TX_BITS} rows: make it smaller")
    rows, heads = seal(loaded, decision)
    await _copy(connection, "outcomes", _OUTCOME_COLUMNS, _outcome_rows(loaded, decision))
    await _copy(connection, "entries", (*chain.COLUMNS, "hash"), rows)
    await _copy(connection, "refs", _REF_COLUMNS, _ref_rows(loaded, decision, submissions, sources))
    await _update_accounts(connection, loaded, decision, heads)
    await _write_pipelines(connection, loaded, decision)
    await _write_rest(connection, loaded, decision)
    checkpoints = _checkpoints(loaded, decision, heads, checkpoint_every)
    await connection.execute(SQL["put_outbox"], loaded.tx, checkpoints)


async def _copy(
    connection: asyncpg.Connection, table: str, columns: Sequence[str], rows: list[tuple[Any, ...]]
) -> None:
    if rows:
        await connection.copy_records_to_table(table, records=rows, columns=columns)


def seal(loaded: Loaded, decision: Decision) -> tuple[list[tuple[Any, ...]], dict[str, bytes]]:
    """Make the entries' rows, each with its hash; return them and the accounts' new chain heads."""
    heads: dict[str, bytes] = {}
    first, rows = loaded.tx << TX_BITS, []
    causes = [UUID(o.identity.event_key) for o in decision.outcomes]
    for n, entry in enumerate(decision.entries):
        row = _entry_row(loaded.ids, first, first + n, entry, causes[entry.outcome])
        previous = heads.get(entry.subject) or loaded.heads[entry.subject]
        heads[entry.subject] = digest = chain.entry_hash(previous, row)
        rows.append((*row, digest))
    return rows, heads


def _entry_row(
    ids: Mapping[str, int], first: int, entry_id: int, entry: Entry, cause: UUID
) -> tuple[Any, ...]:
    usage = entry.usage
    return (
        entry_id,
        ids[entry.subject],
        entry.sequence,
        entry.at,
        entry.amount,
        entry.held_delta,
        entry.debt_delta,
        entry.balance,
        entry.held,
        entry.debt,
        first + entry.outcome,
        entry.kind,
        cause,
        _uuid(entry.hold_id),
        ids[entry.user] if entry.user else None,
        ids[entry.org] if entry.org else None,
        entry.price_version,
        usage.phase if usage else None,
        usage.provider if usage else None,
        usage.model if usage else None,
        usage.units if usage else None,
        usage.input_tokens if usage else None,
        usage.output_tokens if usage else None,
        usage.byok if usage else None,
        usage.occurred_at if usage else None,
        entry.reason,
    )


def _outcome_rows(loaded: Loaded, decision: Decision) -> list[tuple[Any, ...]]:
    counts = [0] * len(decision.outcomes)
    for entry in decision.entries:
        counts[entry.outcome] += 1
    first, ids = loaded.tx << TX_BITS, loaded.ids
    rows = [
        (
            first + n,
            UUID(o.identity.event_key),
            _uuid(o.identity.usage_key),
            UUID(o.identity.fingerprint),
            o.name,
            o.result,
            counts[n],
            ids[o.user] if o.user else None,
            ids[o.org] if o.org else None,
            loaded.now,
            json.dumps(bodies.to_stored(o.body, ids)) if o.body is not None else None,
        )
        for n, o in enumerate(decision.outcomes)
    ]
    # In the order of their keys, so that two writers never wait for each other in turn.
    rows.sort(key=lambda row: row[1].bytes)
    return rows


def _ref_rows(
    loaded: Loaded,
    decision: Decision,
    submissions: Sequence[Submission],
    sources: Mapping[str, int],
) -> list[tuple[Any, ...]]:
    first = loaded.tx << TX_BITS
    rows = []
    for n, outcome in enumerate(decision.outcomes):
        refs = submissions[outcome.command].refs
        rows.append(
            (
                first + n,
                sources[refs.source],
                refs.event_id,
                refs.pipeline_id,
                refs.usage_id,
                refs.batch_id,
                refs.correlation_id,
                refs.traceparent,
            )
        )
    return rows


async def _update_accounts(
    connection: asyncpg.Connection, loaded: Loaded, decision: Decision, heads: Mapping[str, bytes]
) -> None:
    moved = [decision.state.accounts[s] for s in heads]
    if moved:
        await connection.execute(
            SQL["update_accounts"],
            [loaded.ids[a.subject] for a in moved],
            [a.balance for a in moved],
            [a.held for a in moved],
            [a.debt for a in moved],
            [a.sequence for a in moved],
            [heads[a.subject] for a in moved],
            [a.last_at for a in moved],
            [a.tier for a in moved],
        )


async def _write_pipelines(
    connection: asyncpg.Connection, loaded: Loaded, decision: Decision
) -> None:
    numbers = {
        o.identity.event_key: (loaded.tx << TX_BITS) + n for n, o in enumerate(decision.outcomes)
    }
    anew = [p for p in decision.pipelines.values() if p.cause in numbers]
    holds = [p for p in decision.pipelines.values() if p.cause not in numbers and p.hold]
    if holds:
        await _update_holds(connection, holds)
    again = [p.key for p in anew if p.key in loaded.requests]
    if again:
        done = await connection.execute(
            SQL["delete_pipelines"],
            [UUID(k) for k in again],
            [loaded.requests[k] for k in again],
        )
        if done != f"DELETE {len(again)}":
            raise Conflict
    if anew:
        rows = [_pipeline_row(loaded.ids, p, numbers[p.cause]) for p in anew]
        await connection.executemany(SQL["insert_pipeline"], sorted(rows, key=lambda r: r[0].bytes))


async def _update_holds(connection: asyncpg.Connection, pipelines: Sequence[Pipeline]) -> None:
    pairs = [(p.key, p.hold) for p in pipelines if p.hold]
    await connection.execute(
        SQL["update_holds"],
        [UUID(key) for key, _ in pairs],
        [h.remaining for _, h in pairs],
        [h.state for _, h in pairs],
        [h.expires_at for _, h in pairs],
        [h.usage_settled for _, h in pairs],
        [h.usage_expected for _, h in pairs],
    )


def _pipeline_row(ids: Mapping[str, int], p: Pipeline, outcome_id: int) -> tuple[Any, ...]:
    head = (
        UUID(p.key),
        outcome_id,
        ids[p.user],
        ids[p.org] if p.org else None,
        p.items,
        json.dumps(p.phases),
        json.dumps(p.pruned),
    )
    h = p.hold
    if h is None:
        return (*head, None, None, None, 0, 0, "none", None, 0, None)
    return (
        *head,
        UUID(h.id),
        ids[h.payer],
        h.price_version,
        h.amount,
        h.remaining,
        h.state,
        h.expires_at,
        h.usage_settled,
        h.usage_expected,
    )


async def _write_rest(connection: asyncpg.Connection, loaded: Loaded, decision: Decision) -> None:
    if decision.completed:
        keys = sorted((loaded.ids[s], b, p) for s, b, p in decision.completed)
        items = {(loaded.ids[s], b, p): n for (s, b, p), n in decision.completed.items()}
        await connection.execute(
            SQL["put_completions"],
            [a for a, _, _ in keys],
            [UUID(b) for _, b, _ in keys],
            [p for _, _, p in keys],
            [items[k] for k in keys],
        )
    if decision.charged:
        await connection.execute(SQL["delete_unpriced"], decision.charged)
    first = loaded.tx << TX_BITS
    unpriced = [
        (
            first + n,
            _uuid(u.pipeline_key),
            loaded.ids[u.user],
            loaded.ids[u.org] if u.org else None,
            u.phase,
            u.provider,
            u.model,
            u.units,
            u.input_tokens,
            u.output_tokens,
            u.occurred_at,
        )
        for n, u in decision.unpriced
    ]
    await _copy(connection, "unpriced", _UNPRICED_COLUMNS, unpriced)


def _checkpoints(
    loaded: Loaded, decision: Decision, heads: Mapping[str, bytes], every: int
) -> str | None:
    """State the accounts whose sequence passed a multiple of `every` in this batch."""
    passed = {e.subject for e in decision.entries if every > 0 and e.sequence % every == 0}
    if not passed:
        return None
    accounts = [decision.state.accounts[s] for s in sorted(passed)]
    return json.dumps(
        [
            checkpoint(
                loaded.ids[a.subject], a.sequence, a.balance, a.held, a.debt, heads[a.subject]
            )
            for a in accounts
        ]
    )


def checkpoint(
    account_id: int, sequence: int, balance: int, held: int, debt: int, head: bytes
) -> dict[str, Any]:
    """State one account as the outbox carries it; amounts are micro-credits."""
    return {
        "account_id": account_id,
        "sequence": sequence,
        "balance": balance,
        "held": held,
        "debt": debt,
        "chain_head": head.hex(),
    }


async def put_offsets(connection: asyncpg.Connection, position: Position) -> None:
    """Keep how far the consumer group has come, with the money (rule 7). Raises WentBack."""
    ordered = sorted(position.offsets, key=lambda o: (o.topic_id.bytes, o.partition))
    behind = await connection.fetch(
        SQL["put_offsets"],
        position.cluster,
        position.consumer,
        [o.topic_id for o in ordered],
        [o.partition for o in ordered],
        [o.topic for o in ordered],
        [o.next_offset for o in ordered],
        [o.known for o in ordered],
    )
    if behind:
        places = (f"{r['topic']}[{r['partition']}] {r['known']} -> {r['kept']}" for r in behind)
        raise WentBack(f"kept offsets went back: {', '.join(places)}")
