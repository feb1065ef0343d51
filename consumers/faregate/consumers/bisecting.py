"""Find what PostgreSQL will not take in a batch, and apply everything else (rule 11)."""

from __future__ import annotations

from faregate.consumers import journal
from faregate.consumers.dlq import DeadLetter
from faregate.consumers.reading import Batch, rejected
from faregate.ledger.store import BadValue, Store


async def bisect(store: Store, batch: Batch, error: BadValue) -> list[DeadLetter]:
    """Apply the halves of a batch that cannot be written whole; give what turned out dead."""
    if len(batch) == 1:
        return [DeadLetter(batch[0][0], "bad_value", str(error))]
    dead: list[DeadLetter] = []
    middle = len(batch) // 2
    for half in (batch[:middle], batch[middle:]):
        try:
            results = await store.apply([s for _, s in half])
        except BadValue as again:
            dead += await bisect(store, half, again)
        else:
            journal.decisions(half, results)
            dead += rejected(half, results)
    return dead
