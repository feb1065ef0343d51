"""Write pipelines and their holds: new ones with COPY, changed ones together with the accounts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import asyncpg
from asyncpg.pgproto.pgproto import UUID

from faregate.ledger import stored
from faregate.ledger.core import Decision, Pipeline
from faregate.ledger.load import Loaded
from faregate.ledger.queries import SQL
from faregate.ledger.rows import Change, Rows

_COLUMNS = (
    "pipeline_key",
    "outcome_id",
    "user_id",
    "org_id",
    "items",
    "phases",
    "pruned",
    "hold_id",
    "payer_id",
    "price_version",
    "amount",
    "remaining",
    "state",
    "expires_at",
    "usage_settled",
    "usage_expected",
    "pins",
    "member_id",
    "member_pins",
)


class Conflict(Exception):
    """Somebody else used the same pipeline_id in between: take the batch again."""


async def write_pipelines(
    connection: asyncpg.Connection, loaded: Loaded, decision: Decision, first: int
) -> tuple[Rows, list[Change]]:
    """Make room for a decision's pipelines; give rows to insert, and the change of other rows.

    The decision's outcomes have the ids from `first` on. Raises Conflict. Inserting may raise the
    driver's UniqueViolationError: two requests for one new pipeline_id meet on the primary key, and
    the later one is decided again.
    """
    numbers = {o.identity.event_key: first + n for n, o in enumerate(decision.outcomes)}
    anew = [p for p in decision.pipelines.values() if p.cause in numbers]
    moved = [p for p in decision.pipelines.values() if p.cause not in numbers]
    changed = [p for p in moved if p.hold or p.settled]
    again = [p.key for p in anew if p.key in loaded.requests]
    if again:
        done = await connection.execute(
            SQL["delete_pipelines"],
            [UUID(k) for k in again],
            [loaded.requests[k] for k in again],
        )
        if done != f"DELETE {len(again)}":
            raise Conflict
    rows = [_row(loaded.ids, p, numbers[p.cause]) for p in anew]
    rows.sort(key=lambda row: row[0].bytes)
    return Rows("pipelines", _COLUMNS, rows), [_change(changed)] if changed else []


def _change(pipelines: Sequence[Pipeline]) -> Change:
    columns = zip(*(_moving(p) for p in pipelines), strict=True)
    return Change(SQL["update_holds"], [[UUID(p.key) for p in pipelines], *map(list, columns)])


def _moving(p: Pipeline) -> tuple[Any, ...]:
    """Give what changes of a pipeline's row: `remaining` and what comes after it."""
    h = p.hold
    if h is None:
        return (0, "closed" if p.settled else "none", None, 0, None, "[]", "[]")
    pins = stored.pins_text(h.pins), stored.pins_text(h.member_pins)
    return (h.remaining, h.state, h.expires_at, h.usage_settled, h.usage_expected, *pins)


@lru_cache(1024)
def _phases_text(phases: tuple[str, ...]) -> str:
    return json.dumps(phases)


def _row(ids: Mapping[str, int], p: Pipeline, outcome_id: int) -> tuple[Any, ...]:
    head = (
        UUID(p.key),
        outcome_id,
        ids[p.user],
        ids[p.org] if p.org else None,
        p.items,
        _phases_text(p.phases),
        _phases_text(p.pruned),
    )
    *moving, member_pins = _moving(p)
    h = p.hold
    owner = (UUID(h.id), ids[h.payer], h.price_version, h.amount) if h else (None, None, None, 0)
    member = ids[h.member] if h and h.member else None
    return (*head, *owner, *moving, member, member_pins)
