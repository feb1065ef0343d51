"""What is recomputed here, row after row, in bounded memory: chains, accounts, keyed hashes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Any

import asyncpg
from asyncpg.pgproto.pgproto import UUID

from faregate.ledger.keys import Keys
from faregate.ledger.verify_chain import Chains, Recomputed
from faregate.ledger.verify_report import Checkpoint, Findings
from faregate.ledger.verify_rows import PATIENCE_S, SQL
from faregate.ledger.write import TX_BITS

_CHUNK = 5_000
_ERASED = "erased:"

Row = Mapping[str, Any]


class Cursor:
    """Rows of one statement, a chunk at a time."""

    def __init__(self, connection: asyncpg.Connection, statement: str, *arguments: object) -> None:
        self._make = connection.cursor(statement, *arguments, timeout=PATIENCE_S)
        self._cursor: Any = None

    async def chunk(self) -> Sequence[Row]:
        """Give the next rows; none at the end."""
        if self._cursor is None:
            self._cursor = await self._make
        rows: Sequence[Row] = await self._cursor.fetch(_CHUNK, timeout=PATIENCE_S)
        return rows


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
        nothing = (0, 0, 0, 0, bytes(32), 0)
        if _state(row) != nothing or row["checkpointed"]:
            self._add(row, "it has no entries, and is not empty")
        if row["remaining"]:
            self._add(row, f"its pipelines hold {row['remaining']}, and it has no entries", "hold")

    def _with_entries(self, row: Row, account: Recomputed) -> None:
        if not self._halves(row):
            return
        made = (account.sequence, *account.values, account.head)
        names = ("sequence", "balance", "held", "debt", "chain_head")
        stored = [row[name] for name in names]
        wrong = [
            f"{name} is {_text(now)}, its newest entry says {_text(should)}"
            for name, now, should in zip(names, stored, made, strict=True)
            if now != should
        ]
        if row["last_at"] != account.last_at and not account.flawed:
            wrong.append(f"last_at is {row['last_at']}, its newest entry's {account.last_at}")
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


def _state(row: Row) -> tuple[Any, ...]:
    columns = ("sequence", "balance", "held", "debt", "chain_head", "remaining")
    return tuple(0 if name == "remaining" else row[name] for name in columns)


def _text(value: object) -> object:
    return value.hex() if isinstance(value, bytes) else value


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


async def check_refs(
    connection: asyncpg.Connection, findings: Findings, keys: Keys, since: datetime | None
) -> None:
    """Hash what callers called things again. What was erased, or never there, says nothing."""
    refs = Cursor(connection, SQL["refs"], since)
    while rows := await refs.chunk():
        for row in rows:
            wrong = list(_wrong_ref(row, keys))
            if wrong:
                findings.add("ref", "refs", f"outcome_id {row['outcome_id']}", "; ".join(wrong))


def _wrong_ref(row: Row, keys: Keys) -> Iterator[str]:
    source, event_id, usage_id = row["source"], row["event_id"], row["usage_id"]
    if row["missing"]:
        yield "its outcome is missing"
        return
    if source is None:
        yield "its source is missing"
        return
    if event_id is not None and keys.event(source, event_id) != row["event_key"].bytes:
        yield "source and event_id do not hash to the outcome's event_key"
    key = row["usage_key"]
    if usage_id is not None and key is not None and keys.usage(source, usage_id) != key.bytes:
        yield "source and usage_id do not hash to the outcome's usage_key"
    if usage_id is not None and key is None and event_id is not None:
        yield "it has a usage_id, its outcome has no usage_key"
    pipeline_id, key = row["pipeline_id"], row["pipeline_key"]
    if pipeline_id is not None and key is not None and keys.pipeline(pipeline_id) != key.bytes:
        yield "pipeline_id does not hash to the pipeline's key"


async def check_checkpoints(
    connection: asyncpg.Connection,
    findings: Findings,
    keys: Keys,
    checkpoints: Iterable[Checkpoint],
) -> tuple[int, int]:
    """Compare with what was announced; give how many there were and how many are superseded."""
    recoveries = await connection.fetch(SQL["recoveries"])
    source, count, superseded = iter(checkpoints), 0, 0
    while chunk := list(islice(source, _CHUNK)):
        count += len(chunk)
        ids = [_erased_id(c.account) for c in chunk]
        commitments = [
            UUID(keys.subject(c.account)) if n is None else None
            for c, n in zip(chunk, ids, strict=True)
        ]
        rows = await connection.fetch(
            SQL["checkpoints"], commitments, ids, [c.sequence for c in chunk], timeout=PATIENCE_S
        )
        for checkpoint, row in zip(chunk, rows, strict=True):
            restore = next((r for r in recoveries if r["epoch"] > checkpoint.epoch), None)
            superseded += _compare(findings, checkpoint, row, restore)
    return count, superseded


def _erased_id(account: str) -> int | None:
    number = account.removeprefix(_ERASED)
    return int(number) if number != account and number.isdecimal() else None


def _compare(findings: Findings, said: Checkpoint, row: Row, restore: Row | None) -> bool:
    """Add what differs; say whether the checkpoint is superseded by a restore."""
    where = f"of {said.account} sequence {said.sequence}"
    if row["id"] is None:
        message = _absent(said, row, restore)
        findings.add("checkpoint", "checkpoints", where, message)
        return False
    if restore and row["id"] >= restore["from_tx"] << TX_BITS:
        return True
    announced = (said.balance, said.held, said.debt, said.chain_head)
    names = ("balance", "held", "debt", "hash")
    wrong = [
        f"{name} is {_text(row[name])}, {_text(value)} was announced"
        for name, value in zip(names, announced, strict=True)
        if row[name] != value
    ]
    if wrong:
        where = f"sequence {said.sequence} (id {row['id']})"
        findings.add("checkpoint", "entries", where, "; ".join(wrong), row["account_id"])
    return False


def _absent(said: Checkpoint, row: Row, restore: Row | None) -> str:
    if row["account_id"] is None:
        what = "this account was announced and is not in the database"
    elif row["newest"] is not None and row["newest"] >= said.sequence:
        what = "this entry was announced and is not in the database"
    else:
        what = f"announced, but the account ends at sequence {row['newest']}"
    if restore is None:
        return f"{what}: it was removed, or the database is older than what Kafka remembers"
    return (
        f"{what}: it was announced before the restore of epoch {restore['epoch']} "
        f"({restore['found_at']:%Y-%m-%d %H:%M}) and has not been replayed since: the money that it "
        "stands for is missing from this database"
    )
