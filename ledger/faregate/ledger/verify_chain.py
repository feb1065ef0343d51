"""Recompute accounts from their entries: sequence, time, amounts and hash chain. Pure.

Entries come in order of (account, sequence). The first row that does not fit is named; what
follows is judged both by what that row says and by what it should have said, so that one changed
row is one finding.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from faregate.ledger.chain import COLUMNS, GENESIS, entry_hash
from faregate.ledger.core.accounts import EPOCH
from faregate.ledger.verify_grants import Lots
from faregate.ledger.verify_report import Findings

Row = Sequence[Any]
Values = tuple[int, int, int]

ID, ACCOUNT, SEQUENCE, AT = range(4)
AMOUNT, HELD_DELTA, DEBT_DELTA, BALANCE, HELD, DEBT, OUTCOME = range(4, 11)
HASH = len(COLUMNS)


_UNHASHABLE = (struct.error, OverflowError, TypeError, ValueError, AttributeError)


@dataclass(frozen=True, slots=True)
class Recomputed:
    """An account as its entries make it; `flawed` when one of them does not fit."""

    account_id: int
    sequence: int
    values: Values
    head: bytes
    last_at: datetime
    flawed: bool
    grants: Mapping[int, Sequence[Any]]
    """What is left of each grant: remaining, held, priority, expires_at."""
    granted: int


class Chains:
    """Takes the entries of all accounts, in order, and recomputes one account after another."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._ended: list[Recomputed] = []
        self.entries = 0
        self._account: int | None = None
        self._sequence, self._at = 0, EPOCH
        self._head: bytes = GENESIS
        self._values: Values = (0, 0, 0)
        self._others: tuple[bytes, Values] | None = None
        """What the last row should have said, when that is not what it says."""
        self._owing: Row | None = None
        self._flawed = False
        self._grants = Lots()

    def feed(self, rows: Sequence[Row]) -> list[Recomputed]:
        """Check `rows` (COLUMNS, then the hash); give the accounts that ended before or in them."""
        begin, moves = self._begin, self._grants.move
        for row in rows:
            if row[1] != self._account:
                begin(row[1])
                moves = self._grants.move
            balance, held, debt = row[7], row[8], row[9]
            old = self._values
            try:
                fits = (
                    row[2] == self._sequence + 1
                    and old[0] + row[4] == balance
                    and old[1] + row[5] == held
                    and old[2] + row[6] == debt
                    and 0 <= held <= balance
                    and debt == 0
                    and not self._owing
                    and row[3] >= self._at
                    and entry_hash(self._head, row) == row[HASH]
                )
            except _UNHASHABLE:
                fits = False
            if fits:
                self._sequence, self._at, self._head = row[2], row[3], row[HASH]
                self._values, self._others = (balance, held, debt), None
            else:
                self._look_closer(row)
            wrong = moves(row)
            if wrong:
                self._found(row, "grants", [wrong])
        self.entries += len(rows)
        ended, self._ended = self._ended, []
        return ended

    def finish(self) -> list[Recomputed]:
        """End the last account."""
        self._end()
        ended, self._ended = self._ended, []
        return ended

    def _begin(self, account: int) -> None:
        self._end()
        self._account, self._sequence, self._at = account, 0, EPOCH
        self._head, self._values = GENESIS, (0, 0, 0)
        self._others, self._owing, self._flawed = None, None, False
        self._grants = Lots()

    def _end(self) -> None:
        if self._account is None:
            return
        if self._owing:
            self._found(self._owing, "debt", [_OWING])
        self._ended.append(
            Recomputed(
                self._account,
                self._sequence,
                self._values,
                self._head,
                self._at,
                self._flawed,
                self._grants.left(),
                self._grants.granted,
            )
        )
        self._account = None

    def _look_closer(self, row: Row) -> None:
        """Say all that is wrong with a row, or with what it leaves the account with."""
        if self._owing and self._owing[OUTCOME] != row[OUTCOME]:
            self._found(self._owing, "debt", [_OWING])
        kinds: dict[str, str] = {}
        others: tuple[bytes, Values] | None = None
        if row[SEQUENCE] != self._sequence + 1:
            kinds["sequence"] = self._gap(row)
        else:
            others = self._compare(row, kinds)
        if row[AT] < self._at:
            kinds["time"] = f"at {row[AT]} is before the entry before it ({self._at})"
        if row[DEBT] < 0 or not 0 <= row[HELD] <= row[BALANCE]:
            kinds["range"] = "balance, held and debt must not be negative, nor held over balance"
        if kinds:
            self._found(row, next(iter(kinds)), list(kinds.values()))
        self._sequence, self._head = row[SEQUENCE], row[HASH]
        self._values, self._others = _values(row), others
        if not kinds:  # the time of a row that was changed says nothing about the next one
            self._at = row[AT]
        self._owing = row if row[DEBT] > 0 and row[BALANCE] != row[HELD] else None

    def _gap(self, row: Row) -> str:
        first, last = self._sequence + 1, row[SEQUENCE] - 1
        if last < first:
            return f"the sequence must begin at 1, not at {row[SEQUENCE]}"
        missing = f"entry {first} is" if first == last else f"entries {first} to {last} are"
        return f"{missing} missing before this one"

    def _compare(self, row: Row, kinds: dict[str, str]) -> tuple[bytes, Values] | None:
        """Fill `kinds`; give what the row should have said where that differs."""
        heads, values = [self._head], [self._values]
        if self._others:
            heads.append(self._others[0])
            values.append(self._others[1])
        stored = _values(row)
        expected = [
            (v[0] + row[AMOUNT], v[1] + row[HELD_DELTA], v[2] + row[DEBT_DELTA]) for v in values
        ]
        if stored not in expected:
            wrong = (
                f"{name} is {now}, the entries make it {should}"
                for name, now, should in zip(
                    ("balance", "held", "debt"), stored, expected[0], strict=True
                )
                if now != should
            )
            kinds["balance"] = ", ".join(wrong)
        hashes = [_hash(head, row) for head in heads]
        if row[HASH] not in hashes:
            kinds["hash"] = (
                "the hash does not follow from this row and the hash before it: one of the two "
                "was changed"
            )
        return (hashes[0], expected[0]) if kinds else None

    def _found(self, row: Row, kind: str, messages: Sequence[str]) -> None:
        self._flawed = True
        where = f"sequence {row[SEQUENCE]} (id {row[ID]})"
        self._findings.add(kind, "entries", where, "; ".join(messages), row[ACCOUNT])


_OWING = "there is debt although credits are available: debt is paid first"


def _values(row: Row) -> Values:
    return row[BALANCE], row[HELD], row[DEBT]


def _hash(previous: bytes, row: Row) -> bytes:
    """Hash a row; one that holds what the ledger never writes has no hash."""
    try:
        return entry_hash(previous, row)
    except _UNHASHABLE:
        return b""
