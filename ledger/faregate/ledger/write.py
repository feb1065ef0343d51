"""Write what the core decided, with COPY, in the same transaction (rules 4 to 7)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import asyncpg
from asyncpg.pgproto.pgproto import UUID

from faregate.ledger import audit, bodies, chain, stored
from faregate.ledger.batch import Position, Submission
from faregate.ledger.core import Account, Decision, Entry, LedgerFault, State
from faregate.ledger.core.renewal import due_at, gives
from faregate.ledger.keys import Keys
from faregate.ledger.load import Loaded
from faregate.ledger.queries import SQL
from faregate.ledger.rows import FEW, Change, Rows, change_all, insertion, put_rows
from faregate.ledger.write_pipelines import write_pipelines

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
    "batch_size",
    "calls",
    "seal",
)
_REF_COLUMNS = (
    *("outcome_id", "source_id", "event_id", "pipeline_id", "usage_id", "batch_id"),
    *("correlation_id", "traceparent", "tracestate"),
)
_GRANT_COLUMNS = (
    "id",
    "account_id",
    "number",
    "at",
    "kind",
    "amount",
    "priority",
    "expires_at",
    "source",
    "allocated_by",
    "notes",
    "layer",
    "arm",
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


class WentBack(Exception):
    """The database is older than its reader remembers: read again from the kept offsets."""


def _uuid(key: bytes | None) -> UUID | None:
    return None if key is None else UUID(key)


async def write(
    connection: asyncpg.Connection,
    keys: Keys,
    loaded: Loaded,
    decision: Decision,
    submissions: Sequence[Submission],
    sources: Mapping[str, int],
    checkpoint_every: int,
    position: Position | None = None,
) -> None:
    """Write a decision: outcomes, entries, accounts, holds, its outbox row, and the offsets.

    For a batch of duplicates there are only the offsets, and the audit log of acts that were
    refused. Raises Conflict (take the batch again) and WentBack.
    """
    await audit.write(connection, keys, loaded, decision, submissions)
    if not decision.outcomes:
        await _finish(connection, [], position)
        return
    if max(len(decision.outcomes), len(decision.entries)) >= 1 << TX_BITS:
        raise LedgerFault(f"a batch may write at most {1 << TX_BITS} rows: make it smaller")
    rows, heads = seal(loaded, decision)
    pipelines, holds = await write_pipelines(connection, loaded, decision, loaded.tx << TX_BITS)
    await _write_rest(connection, loaded, decision)
    new = [
        Rows("outcomes", _OUTCOME_COLUMNS, outcome_rows(keys, loaded, decision)),
        Rows("entries", (*chain.COLUMNS, "hash"), rows),
        Rows("grants", _GRANT_COLUMNS, _grant_rows(loaded, decision)),
        Rows("refs", _REF_COLUMNS, _ref_rows(loaded, decision, submissions, sources)),
        pipelines,
    ]
    checkpoints = _checkpoints(loaded, decision, heads, checkpoint_every)
    outbox = Change(SQL["put_outbox"], (loaded.tx, checkpoints))
    rest = [*_accounts(loaded, decision, heads), *holds, outbox]
    if all(len(n.rows) <= FEW for n in new):
        rest = [*(insertion(n) for n in new if n.rows), *rest]
    else:
        for some in new:
            await put_rows(connection, some)
    await _finish(connection, rest, position)


async def _finish(
    connection: asyncpg.Connection, changes: Sequence[Change], position: Position | None
) -> None:
    if position and position.offsets:
        await put_offsets(connection, position, changes)
    elif changes:
        await change_all(connection, changes)


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
    usage, terms = entry.usage, entry.terms
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
        [n for delta in entry.grants for n in delta] or None,
        terms.priority if terms else None,
        terms.expires_at if terms else None,
        entry.tier,
        entry.alert,
    )


def outcome_rows(keys: Keys, loaded: Loaded, decision: Decision) -> list[tuple[Any, ...]]:
    """Make the outcomes' rows, each with its seal, in the order of their keys.

    That order keeps two writers of the same events from waiting for each other in turn. Two that have
    the same usage under different events may: PostgreSQL ends one, which is taken again.
    """
    counts = [0] * len(decision.outcomes)
    for entry in decision.entries:
        counts[entry.outcome] += 1
    first, ids, size = loaded.tx << TX_BITS, loaded.ids, len(decision.outcomes)
    at = loaded.now.isoformat()
    rows = []
    for n, outcome in enumerate(decision.outcomes):
        identity, body = outcome.identity, outcome.body
        row = (
            first + n,
            UUID(identity.event_key),
            _uuid(identity.usage_key),
            UUID(identity.fingerprint),
            outcome.name,
            outcome.result,
            counts[n],
            ids[outcome.user] if outcome.user else None,
            ids[outcome.org] if outcome.org else None,
            loaded.now,
            None if body is None else canonical(bodies.to_stored(body, ids)),
            size,
            outcome.calls,
        )
        rows.append((*row, UUID(outcome_seal(keys, row, at))))
    rows.sort(key=lambda row: row[1].bytes)
    return rows


def canonical(body: object) -> str:
    """Write a body as the seal covers it: JSON with sorted keys and no blanks."""
    return json.dumps(body, sort_keys=True, separators=(",", ":"))


def outcome_seal(keys: Keys, row: Sequence[Any], at: str) -> bytes:
    """Seal an outcome's row (without its seal); `at` is its time in ISO format, UTC."""
    usage_key = row[2].hex if row[2] else None
    return keys.seal(row[0], row[1].hex, usage_key, row[3].hex, *row[4:9], at, *row[10:13])


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
                refs.tracestate,
            )
        )
    return rows


def _grant_rows(loaded: Loaded, decision: Decision) -> list[tuple[Any, ...]]:
    first = loaded.tx << TX_BITS
    return [
        (
            first + n,
            loaded.ids[e.subject],
            e.sequence,
            e.at,
            e.kind,
            e.grants[-1][1],
            t.priority,
            t.expires_at,
            t.source,
            t.allocated_by,
            t.notes,
            t.layer,
            t.arm,
        )
        for n, e in enumerate(decision.entries)
        if (t := e.terms) is not None
    ]


def _accounts(loaded: Loaded, decision: Decision, heads: Mapping[str, bytes]) -> list[Change]:
    """Change accounts that moved, and those whose plan changed without an entry."""
    accounts, planned = decision.state.accounts, decision.planned
    changed = [accounts[s] for s in (*heads, *(planned - heads.keys()))]
    if not changed:
        return []
    values = [
        [loaded.ids[a.subject] for a in changed],
        [a.balance for a in changed],
        [a.held for a in changed],
        [a.debt for a in changed],
        [a.sequence for a in changed],
        [heads.get(a.subject) or loaded.heads[a.subject] for a in changed],
        [a.last_at for a in changed],
        [stored.grants_text(a.grants) for a in changed],
        [a.granted for a in changed],
        [stored.plan_text(a.plan) if a.subject in planned else None for a in changed],
        [due_at(a, renewing=_renews(decision.state, a, loaded.now)) for a in changed],
    ]
    return [Change(SQL["update_accounts"], values)]


def _renews(state: State, account: Account, now: datetime) -> bool:
    """Tell whether the end of its period changes an account's credits or tier."""
    plan = account.plan
    if plan.period_start is None:
        return False
    book = state.books.in_force(now)
    tier = book.tiers.get(plan.next_tier or plan.tier) if book else None
    return plan.next_tier is not None or (tier is not None and gives(tier))


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
    await put_rows(connection, Rows("unpriced", _UNPRICED_COLUMNS, unpriced))


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


async def put_offsets(
    connection: asyncpg.Connection, position: Position, changes: Sequence[Change] = ()
) -> None:
    """Keep how far the consumer group has come, with the money (rule 7). Raises WentBack."""
    ordered = sorted(position.offsets, key=lambda o: (o.topic_id.bytes, o.partition))
    places = (
        position.cluster,
        position.consumer,
        [o.topic_id for o in ordered],
        [o.partition for o in ordered],
        [o.topic for o in ordered],
    )
    put = Change(SQL["put_offsets"], (*places, [o.next_offset for o in ordered]))
    look = Change(SQL["offsets_behind"], (*places, [o.known for o in ordered]))
    if behind := await change_all(connection, [*changes, put], look):
        went = (f"{r['topic']}[{r['partition']}] {r['known']} -> {r['kept']}" for r in behind)
        raise WentBack(f"kept offsets went back: {', '.join(went)}")
