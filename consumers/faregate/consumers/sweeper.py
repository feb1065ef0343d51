"""What time brings: holds and grants that are due, tiers, late prices, checkpoints.

The sweeper decides nothing itself: it sends commands through the store, and the core looks again
under the lock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from uuid import uuid4

import structlog
from asyncpg import Record

from faregate.ledger.batch import Refs, Submission
from faregate.ledger.core import (
    ChargeUnpriced,
    CloseHold,
    Identity,
    Outcome,
    Refresh,
    Rejected,
    Usage,
)
from faregate.ledger.core.accounts import EPOCH
from faregate.ledger.database import TRANSIENT
from faregate.ledger.names import erased
from faregate.ledger.queries import SQL
from faregate.ledger.store import BadValue, Store

log = structlog.get_logger("faregate.sweeper")

SOURCE = "faregate"
_LIMIT = 500
_PAGE = 250
"""So many accounts are locked at a time: others wait for them (rule 3)."""

_CHECKPOINTS = 1000


@dataclass(frozen=True, slots=True)
class SweeperSettings:
    """How often to look, in seconds."""

    every_s: float = 1.0
    unpriced_every_s: float = 5.0
    checkpoint_every_s: float = 60.0


class Sweeper:
    """Closes due holds, expires and renews, charges usage that got a price, announces checkpoints."""

    def __init__(self, store: Store, settings: SweeperSettings | None = None) -> None:
        self._store = store
        self._settings = settings or SweeperSettings()
        self._stopping = asyncio.Event()
        self._prices = -1
        self._looked_at = 0

    def stop(self) -> None:
        """Return from `run` after the sweep in hand."""
        self._stopping.set()

    async def run(self) -> None:
        """Sweep until `stop`; a database that is away is tried again."""
        settings, unpriced_at, checkpoint_at = self._settings, 0.0, 0.0
        while not self._stopping.is_set():
            try:
                await close_due(self._store)
                await refresh_due(self._store, self._stopping)
                if monotonic() >= unpriced_at:
                    await self._charge_unpriced()
                    unpriced_at = monotonic() + settings.unpriced_every_s
                if monotonic() >= checkpoint_at:
                    while await self._store.checkpoint(_CHECKPOINTS) == _CHECKPOINTS:
                        continue
                    checkpoint_at = monotonic() + settings.checkpoint_every_s
            except TRANSIENT as error:
                log.warning("sweep_postponed", error=repr(error))
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), settings.every_s)

    async def _charge_unpriced(self) -> None:
        """Look at new unpriced usage; at all of it once another price version has started.

        And again for a while after that: what was decided before it may commit only now, with a
        lower id than what has been looked at.
        """
        prices = await self._store.pool.fetchrow(SQL["prices_in_force"])
        after = self._looked_at if prices["started"] == self._prices else 0
        self._looked_at = await charge_unpriced(self._store, after)
        self._prices = prices["started"] if prices["settled"] else -1


async def close_due(store: Store) -> int:
    """Release what is left of holds whose TTL or grace is over; count them."""
    rows = await store.pool.fetch(SQL["due_holds"], _LIMIT)
    results = await _apply(store, [_close(store, row) for row in rows], _erasures(rows))
    if results:
        log.info("holds_closed", count=results)
    return results


async def refresh_due(store: Store, stopping: asyncio.Event | None = None) -> int:
    """Expire grants and renew tiers whose time has come; count the accounts that changed.

    All of them, however many became due while nobody looked: in pages, each a transaction of its
    own, until `stopping`. One that stays due (it cannot be written) does not hold up the others.
    """
    started, after, looked_at, changed, late_s = monotonic(), (EPOCH, 0), 0, 0, 0.0
    while rows := await store.pool.fetch(SQL["due_accounts"], _PAGE, *after):
        late_s = late_s or (rows[0]["now"] - rows[0]["due_at"]).total_seconds()
        after = (rows[-1]["due_at"], rows[-1]["id"])
        looked_at += len(rows)
        changed += await _apply(store, [_refresh(row) for row in rows], _erasures(rows))
        if len(rows) < _PAGE or (stopping is not None and stopping.is_set()):
            break
    if changed:
        log.info(
            "accounts_refreshed",
            count=changed,
            unchanged=looked_at - changed,
            oldest_late_s=round(late_s, 3),
            seconds=round(monotonic() - started, 3),
        )
    return changed


def _refresh(row: Record) -> Submission:
    key = uuid4().bytes  # doing it twice does nothing: the core looks again under the lock
    subject = row["subject"] or erased(row["id"])
    return Submission(Refresh(Identity(key, key), subject), Refs(SOURCE))


def _close(store: Store, row: Record) -> Submission:
    hold_id = row["hold_id"].bytes
    key = store.keys.internal("close", row["hold_id"].hex)
    command = CloseHold(Identity(key, key), row["pipeline_key"].bytes, hold_id)
    pipeline_id = row["pipeline_id"]
    return Submission(command, Refs(SOURCE, None, pipeline_id, None, row["batch_id"], pipeline_id))


async def charge_unpriced(store: Store, after: int = 0) -> int:
    """Charge usage kept after outcome `after` that has a price by now; give the last one seen."""
    while rows := await store.pool.fetch(SQL["unpriced_usage"], after, _LIMIT):
        after = rows[-1]["outcome_id"]
        involved = {i for r in rows for i in (r["user_id"], r["org_id"]) if i is not None}
        subjects = await store.names.subjects(involved)
        commands = [_charge(store, row, subjects) for row in rows]
        charged = await _apply(store, commands, _erasures(rows))
        if charged:
            log.info("unpriced_charged", count=charged)
    return after


def _charge(store: Store, row: Record, subjects: Mapping[int, str]) -> Submission:
    key = store.keys.late_charge(row["event_key"].bytes)
    identity = Identity(key, key)
    usage = Usage(
        identity,
        subjects[row["user_id"]],
        subjects.get(row["org_id"]),
        row["pipeline_key"].bytes if row["pipeline_key"] else None,
        row["occurred_at"],
        False,  # noqa: FBT003 - BYOK usage costs nothing and is never unpriced
        row["phase"],
        row["units"],
        row["provider"],
        row["model"],
        row["input_tokens"],
        row["output_tokens"],
    )
    refs = Refs(SOURCE, None, row["pipeline_id"], row["usage_id"], None, row["correlation_id"])
    return Submission(ChargeUnpriced(identity, row["outcome_id"], usage), refs)


def _erasures(rows: Sequence[Record]) -> int | None:
    """Give how many erasures there were when the names in `rows` were true."""
    return rows[0]["erasures"] if rows else None


async def _apply(
    store: Store, submissions: Sequence[Submission], erasures: int | None = None
) -> int:
    """Apply commands, count what was done; one that can never be written does not stop others."""
    if not submissions:
        return 0
    try:
        results = await store.apply(submissions, erasures=erasures)
    except BadValue as error:
        if len(submissions) == 1:
            log.warning("sweep_impossible", error=str(error), refs=str(submissions[0].refs))
            return 0
        middle = len(submissions) // 2
        first, rest = submissions[:middle], submissions[middle:]
        return await _apply(store, first, erasures) + await _apply(store, rest, erasures)
    for submission, result in zip(submissions, results, strict=True):
        if isinstance(result, Rejected):
            log.warning("sweep_refused", error=result.code, refs=str(submission.refs))
    return sum(isinstance(result, Outcome) for result in results)
