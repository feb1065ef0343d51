"""Accounts as a decision would find them now: read without a lock, brought to now in memory.

The core decides over it by the same rules; what it decides is thrown away, so nothing is written.
"""

from __future__ import annotations

from faregate.ledger.acts_sending import READING
from faregate.ledger.core import Account, State
from faregate.ledger.core.posting import Work
from faregate.ledger.core.renewal import refresh
from faregate.ledger.load import account_of
from faregate.ledger.store import Store


async def snapshot(store: Store, user: str, org: str | None = None) -> Work:
    """Read a user, their org and what it allocated to them; accounts not yet made are empty."""
    books, now = await store.books()
    subjects = [s for s in (user, org) if s is not None]
    rows = await store.pool.fetch(READING["snapshot"], subjects, org, user)
    accounts = {r["subject"]: account_of(r["subject"], r) for r in rows}
    members: dict[tuple[str, str], str] = {}
    for row in rows:
        if row["is_member"] and org is not None:
            members[org, user] = row["subject"]
    for subject in subjects:
        accounts.setdefault(subject, Account(subject))
    return Work(State(books, store.rules, accounts, members=members), now)


async def seen_now(store: Store, subject: str) -> Work:
    """Read one account and bring it to now: periods that are over, grants that are due."""
    work = await snapshot(store, subject)
    refresh(work, subject)
    return work
