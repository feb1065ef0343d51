"""Accounts as a decision would find them now: read without a lock, brought to now in memory.

The core decides over it by the same rules; what it decides is thrown away, so nothing is written.
"""

from __future__ import annotations

from collections.abc import Iterable

from faregate.ledger.acts_sending import READING
from faregate.ledger.core import Account, State
from faregate.ledger.core.posting import Work
from faregate.ledger.core.renewal import refresh
from faregate.ledger.load import account_of
from faregate.ledger.store import Store

Asked = tuple[str, str | None]
"""A user, and the org that they act for."""


async def snapshots(store: Store, asked: Iterable[Asked]) -> dict[Asked, Work]:
    """Read several users, each with their org and what it allocated to them, in one query.

    Accounts not yet made are empty. Raises the driver's errors.
    """
    books, now = await store.books()
    wanted = list(asked)
    subjects = sorted({s for pair in wanted for s in pair if s is not None})
    pairs = [(org, user) for user, org in wanted if org is not None]
    orgs, users = [org for org, _ in pairs], [user for _, user in pairs]
    rows = await store.pool.fetch(READING["snapshot"], subjects, orgs, users)
    accounts = {r["subject"]: account_of(r["subject"], r) for r in rows}
    members = {(r["org"], r["user"]): r["subject"] for r in rows if r["org"] is not None}
    for subject in subjects:
        accounts.setdefault(subject, Account(subject))
    work = {}
    for user, org in wanted:
        member = members.get((org, user)) if org is not None else None
        own = {s: accounts[s] for s in (user, org, member) if s is not None}
        theirs = {(org, user): member} if org is not None and member is not None else {}
        work[user, org] = Work(State(books, store.rules, own, members=theirs), now)
    return work


async def snapshot(store: Store, user: str, org: str | None = None) -> Work:
    """Read a user, their org and what it allocated to them; accounts not yet made are empty."""
    return (await snapshots(store, [(user, org)]))[user, org]


async def seen_now(store: Store, subject: str) -> Work:
    """Read one account and bring it to now: periods that are over, grants that are due."""
    work = await snapshot(store, subject)
    refresh(work, subject)
    return work
