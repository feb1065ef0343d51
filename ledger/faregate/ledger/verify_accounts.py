"""Accounts and subjects against what the entries make of them, in one pass over both."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

import asyncpg

from faregate.ledger import stored
from faregate.ledger.core.accounts import EPOCH, Grant
from faregate.ledger.keys import Keys
from faregate.ledger.names import member
from faregate.ledger.verify_chain import Chains, Recomputed
from faregate.ledger.verify_report import Findings
from faregate.ledger.verify_rows import SQL
from faregate.ledger.verify_streams import Cursor, Row, text


class Accounts:
    """Compares accounts and subjects with what the entries make of them, in order of their ids."""

    def __init__(
        self, connection: asyncpg.Connection, findings: Findings, keys: Keys, since: datetime | None
    ) -> None:
        self._rows = Cursor(connection, SQL["accounts"], since)
        self._waiting: deque[Row] = deque()
        self._findings = findings
        self._keys = keys
        self._more = True
        self.count = 0

    async def compare(self, recomputed: Iterable[Recomputed]) -> None:
        """Compare the next accounts that have entries, and those without before them."""
        for account in recomputed:
            while (row := await self._next()) is not None and row["id"] < account.account_id:
                self._waiting.popleft()
                self._without_entries(row)
            if row is not None and row["id"] == account.account_id:
                self._waiting.popleft()
                self._with_entries(row, account)
            else:
                self._missing(account.account_id, "accounts", "its entries are there")
                self._missing(account.account_id, "subjects", "its entries are there")

    async def finish(self) -> None:
        """Compare what is left: accounts without entries."""
        while (row := await self._next()) is not None:
            self._waiting.popleft()
            self._without_entries(row)

    async def _next(self) -> Row | None:
        if not self._waiting and self._more:
            self._waiting.extend(await self._rows.chunk())
            self._more = bool(self._waiting)
        return self._waiting[0] if self._waiting else None

    def _missing(self, account_id: int, table: str, although: str) -> None:
        self._findings.add(
            "orphan", table, f"(id {account_id})", f"missing, {although}", account_id
        )

    def _halves(self, row: Row) -> bool:
        """Check account and subject against each other; say whether there is an account."""
        self.count += 1
        if not row["has_subject"]:
            self._missing(row["id"], "subjects", "its account is there")
        elif not row["has_account"]:
            self._missing(row["id"], "accounts", "its subject is there")
        if row["subject"] is not None and row["commitment"].bytes != self._subject(row["subject"]):
            message = "the subject does not hash to its commitment: one of the two was changed"
            self._findings.add("subject", "subjects", f"(id {row['id']})", message, row["id"])
        return bool(row["has_account"])

    def _subject(self, subject: str) -> bytes:
        return self._keys.subject(subject)

    def _without_entries(self, row: Row) -> None:
        if not self._halves(row):
            return
        nothing = (0, 0, 0, 0, bytes(32), "[]", 0)
        if _state(row) != nothing or row["checkpointed"] or row["last_at"] != EPOCH:
            self._add(row, "it has no entries, and is not empty")
        if row["remaining"]:
            self._add(row, f"its pipelines hold {row['remaining']}, and it has no entries", "hold")

    def _with_entries(self, row: Row, account: Recomputed) -> None:
        if not self._halves(row):
            return
        made = (account.sequence, *account.values, account.head)
        names = ("sequence", "balance", "held", "debt", "chain_head")
        kept = [row[name] for name in names]
        wrong = [
            f"{name} is {text(now)}, its newest entry says {text(should)}"
            for name, now, should in zip(names, kept, made, strict=True)
            if now != should
        ]
        if row["last_at"] != account.last_at and not account.flawed:
            wrong.append(f"last_at is {row['last_at']}, its newest entry's {account.last_at}")
        if not account.flawed:
            wrong.extend(_wrong_grants(row, account))
        if row["checkpointed"] > row["sequence"]:
            wrong.append(f"checkpointed {row['checkpointed']} is beyond its sequence")
        if wrong:
            self._add(row, "; ".join(wrong))
        if row["remaining"] != account.values[1]:
            message = (
                f"live holds have {row['remaining']} left, its entries hold {account.values[1]}"
            )
            self._add(row, message, "hold")

    def _add(self, row: Row, message: str, kind: str = "account") -> None:
        self._findings.add(kind, "accounts", f"(id {row['id']})", message, row["id"])


def _wrong_grants(row: Row, account: Recomputed) -> Iterator[str]:
    """Say what is wrong with an account's live grants, their order, and the time they end."""
    if row["granted"] != account.granted:
        yield f"granted is {row['granted']}, its entries make it {account.granted}"
    try:
        kept = stored.grants_of(row["grants"])
        ordered = sorted(kept, key=lambda g: g.burn_order)
    except (ValueError, TypeError, OverflowError):
        yield "its grants cannot be read"
        return
    made = {n: tuple(lot) for n, lot in account.grants.items()}
    if {g.number: _lot(g) for g in kept} != made or len(kept) != len(made):
        yield f"grants are {row['grants']}, its entries make them {_plain(made)}"
    elif list(kept) != ordered:
        yield "its grants are not in the order in which they burn"
    first = min((g.expires_at for g in kept if g.expires_at and g.remaining > g.held), default=None)
    if first is not None and (row["due_at"] is None or row["due_at"] > first):
        yield f"due_at is {row['due_at']}, one of its grants expires at {first}"


def _lot(grant: Grant) -> tuple[Any, ...]:
    return grant.remaining, grant.held, grant.priority, grant.expires_at


def _plain(made: Mapping[int, tuple[Any, ...]]) -> str:
    lots = (f"{n}: {left} left, {held} held" for n, (left, held, *_) in sorted(made.items()))
    return "; ".join(lots) or "none"


def _state(row: Row) -> tuple[Any, ...]:
    columns = ("sequence", "balance", "held", "debt", "chain_head", "grants", "granted")
    return tuple(row[name] for name in columns)


async def check_chains(
    connection: asyncpg.Connection,
    findings: Findings,
    keys: Keys,
    since: datetime | None,
    progress: Callable[[int], None],
) -> tuple[int, int]:
    """Recompute every account in scope; give the numbers of entries and accounts."""
    chains, accounts = Chains(findings), Accounts(connection, findings, keys, since)
    entries = Cursor(connection, SQL["entries"], since)
    while rows := await entries.chunk():
        await accounts.compare(chains.feed(rows))  # type: ignore[arg-type]  # also a sequence
        progress(chains.entries)
    await accounts.compare(chains.finish())
    await accounts.finish()
    return chains.entries, accounts.count


async def check_members(connection: asyncpg.Connection, findings: Findings, keys: Keys) -> None:
    """Hash the members of orgs again: each has an account that says whose it is, and of which org."""
    members = Cursor(connection, SQL["members"])
    while rows := await members.chunk():
        for row in rows:
            number = row["account_id"]
            if row["org_id"] is None:
                wrong = "missing, the subject of its account is there"
            elif row["commitment"] is None:
                wrong = "its account has no subject"
            elif keys.subject(member(row["org_id"], row["user_id"])) != row["commitment"].bytes:
                wrong = "org and user do not hash to the commitment of its account's subject"
            else:
                continue
            findings.add("member", "members", f"(id {number})", wrong, number)
