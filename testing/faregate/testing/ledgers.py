"""`ledger`: what accounts have, why, and that every credit is accounted for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from faregate.events import LedgerCheckpointV1, parse_credits, to_credits
from faregate.ledger import reading
from faregate.ledger.store import Store
from faregate.ledger.verify import Checkpoint, verify
from faregate.testing.progress import Progress

_ALL = 1_000_000
_SETTLED_S = 30.0
_NEWEST = """
SELECT e.at, s.subject, e.sequence, e.kind, e.amount, e.held_delta, e.balance, e.held, e.debt
FROM entries e JOIN subjects s ON s.account_id = e.account_id
WHERE e.id > $1 ORDER BY e.id DESC LIMIT $2"""
_LAST = "SELECT coalesce(max(id), 0) FROM entries"
_SUMS = """
SELECT s.subject, a.balance, a.held, a.debt, coalesce(e.amount, 0) AS amount,
       coalesce(e.held_delta, 0) AS held_delta, coalesce(e.debt_delta, 0) AS debt_delta
FROM accounts a JOIN subjects s ON s.account_id = a.id LEFT JOIN (
    SELECT account_id, sum(amount) AS amount, sum(held_delta) AS held_delta,
           sum(debt_delta) AS debt_delta
    FROM entries GROUP BY 1) e ON e.account_id = a.id
WHERE (a.balance, a.held, a.debt)
      IS DISTINCT FROM (coalesce(e.amount, 0), coalesce(e.held_delta, 0),
                        coalesce(e.debt_delta, 0))"""


class NotConserved(AssertionError):
    """Credits came from nowhere or went nowhere, or a row was changed; the message lists it."""


@dataclass(frozen=True, slots=True)
class Balance:
    """What an account has, in credits."""

    account: str
    balance: float
    held: float
    available: float
    debt: float


class Ledger:
    """Reads the ledger. Accounts are `org:…` or `user:…`, amounts credits."""

    def __init__(self, store: Store, progress: Progress, begin: int) -> None:
        """Show entries from the id `begin` on in reports."""
        self._store = store
        self._progress = progress
        self._begin = begin

    async def balance(self, account: str) -> Balance:
        """Give what an account has; one that nobody has named has nothing."""
        found = await reading.account(self._store, account)
        names = ("account", "balance", "held", "available", "debt")
        return Balance(**{name: found[name] for name in names})

    async def entries(self, account: str, **fields: Any) -> list[dict[str, Any]]:
        """List an account's entries, oldest first; with `fields` those that have these values."""
        rows = reversed(await reading.history(self._store, account, _ALL))
        return [r for r in rows if all(r.get(name) == value for name, value in fields.items())]

    async def settled(self, within_s: float = _SETTLED_S) -> None:
        """Wait until all that was sent is processed and announced. Raises NotProcessed."""
        await self._progress.reached(await self._progress.ends(), within_s)

    async def assert_conserved(self, within_s: float = _SETTLED_S) -> None:
        """Prove that every credit is accounted for, once everything sent is processed.

        Per account: the entries add up to balance, held and debt. Then all that `faregate verify`
        checks: sequences, hash chains, grants, holds, and the checkpoints heard in this test.
        Raises NotConserved.
        """
        __tracebackhide__ = True
        await self.settled(within_s)
        wrong = [
            f"{r['subject']}: balance {to_credits(r['balance'])}, its entries add up to "
            f"{to_credits(r['amount'])}; held {to_credits(r['held'])} and "
            f"{to_credits(r['held_delta'])}; debt {to_credits(r['debt'])} and "
            f"{to_credits(r['debt_delta'])}"
            for r in await self._store.pool.fetch(_SUMS)
        ]
        report = await verify(self._store.pool, checkpoints=self._checkpoints())
        wrong += [f"{f.kind}: {f.row}: {f.message}" for f in report.findings]
        if wrong:
            raise NotConserved("the ledger does not add up:\n  " + "\n  ".join(wrong))

    async def newest(self, limit: int = 12) -> list[str]:
        """Say what was written since the test began, newest first, a line for each entry."""
        rows = await self._store.pool.fetch(_NEWEST, self._begin, limit)
        lines = [
            f"{r['subject']} #{r['sequence']} {r['kind']} {_signed(r['amount'])}"
            f"{_held(r['held_delta'])} → balance {to_credits(r['balance'])}, "
            f"held {to_credits(r['held'])}, debt {to_credits(r['debt'])}"
            for r in rows
        ]
        return lines or ["none"]

    def _checkpoints(self) -> list[Checkpoint]:
        heard = (h.data for h in self._progress.ear.heard)
        return [_checkpoint(data) for data in heard if isinstance(data, LedgerCheckpointV1)]


async def last_entry(store: Store) -> int:
    """Give the id of the newest entry; 0 for none."""
    return int(await store.pool.fetchval(_LAST))


def _checkpoint(data: LedgerCheckpointV1) -> Checkpoint:
    micro = {n: parse_credits(getattr(data, n), allow_zero=True) for n in _AMOUNTS}
    head = bytes.fromhex(data.chain_head)
    return Checkpoint(data.account, data.sequence, chain_head=head, epoch=data.epoch, **micro)


_AMOUNTS = ("balance", "held", "debt")


def _signed(micro: int) -> str:
    return f"{to_credits(micro):+}"


def _held(micro: int) -> str:
    return f" (held {_signed(micro)})" if micro else ""
