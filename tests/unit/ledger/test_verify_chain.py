"""What entries make of an account's grants, and how much is said when one of them is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from asyncpg.pgproto.pgproto import UUID

from faregate.ledger.chain import COLUMNS, GENESIS, entry_hash
from faregate.ledger.verify_chain import Chains, Recomputed
from faregate.ledger.verify_grants import Lots
from faregate.ledger.verify_report import Findings

AT = datetime(2026, 1, 1, tzinfo=UTC)
Deltas = list[int] | None


def entry(kind: str, amount: int, held: int, grants: Deltas, **more: Any) -> dict[str, Any]:
    return {"kind": kind, "amount": amount, "held_delta": held, "grants": grants, **more}


def grant(number: int, amount: int, priority: int = 100) -> dict[str, Any]:
    return entry("purchase", amount, 0, [number, amount, 0], priority=priority)


def rows_of(entries: Sequence[dict[str, Any]], account: int = 1) -> list[tuple[Any, ...]]:
    """Make rows with all that follows from what was said: sequence, values after, hash."""
    rows, head, balance, held = [], GENESIS, 0, 0
    for n, said in enumerate(entries, 1):
        balance, held = balance + said["amount"], held + said["held_delta"]
        row = dict.fromkeys(COLUMNS) | {
            "id": n,
            "account_id": account,
            "sequence": n,
            "at": AT,
            "debt_delta": 0,
            "balance": balance,
            "held": held,
            "debt": 0,
            "outcome_id": n,
            "cause": UUID(bytes(16)),
        }
        values = tuple({**row, **said}[name] for name in COLUMNS)
        head = entry_hash(head, values)
        rows.append((*values, head))
    return rows


def recomputed(rows: Sequence[tuple[Any, ...]]) -> tuple[Recomputed, list[str]]:
    findings = Findings()
    chains = Chains(findings)
    ended = [*chains.feed(rows), *chains.finish()]
    return ended[-1], [f.message for f in findings.named({})]


def test_grants_are_followed_from_entry_to_entry() -> None:
    made, wrong = recomputed(
        rows_of(
            [
                grant(1, 10),
                grant(2, 5, priority=7),
                entry("hold", 0, 8, [2, 0, 5, 1, 0, 3]),
                entry("usage", -6, -5, [2, -5, -5, 1, -1, 0]),
                entry("expiry", -2, 0, [1, -2, 0]),
            ]
        )
    )
    assert wrong == []
    assert made.grants == {1: [7, 3, 100, None]}
    assert made.granted == 13


@pytest.mark.parametrize(
    ("grants", "says"),
    [
        (None, "names no grants"),
        ([], "do not sum up"),
        ([1, -3, 0], "do not sum up"),
        ([1, -4, 1], "do not sum up"),
        ([9, -4, 0], "grant 9 was made by no entry"),
        ([1, -14, 0, 2, 10, 0], "grant 1 has -4 left"),
        ([1, -4], "no triples"),
        ([1, -4, None], "no triples"),
        ([[1, -4, 0]], "no triples"),
    ],
)
def test_what_an_entry_does_to_no_grant_is_said(grants: Any, says: str) -> None:
    lots = Lots()
    for row in rows_of([grant(1, 10), grant(2, 5)]):
        assert lots.move(row) is None
    (row,) = rows_of([entry("usage", -4, 0, [1, -4, 0])])
    place = COLUMNS.index("grants")
    assert says in (lots.move((*row[:place], grants, *row[place + 1 :])) or "")


def test_what_follows_from_a_wrong_grant_is_not_said_again() -> None:
    spent = entry("usage", -4, 0, [9, -4, 0])
    _, wrong = recomputed(rows_of([grant(1, 100), spent, spent, spent]))
    assert wrong == ["grant 9 was made by no entry"]


def test_a_row_that_cannot_be_hashed_is_a_finding() -> None:
    rows = rows_of([grant(1, 10)])
    for column, value in (("grants", [[1, 10, 0]]), ("amount", 2**70), ("cause", "x")):
        place = COLUMNS.index(column)
        row = (*rows[0][:place], value, *rows[0][place + 1 :])
        _, wrong = recomputed([row])
        assert any("hash" in message for message in wrong)


def test_each_account_has_grants_of_its_own() -> None:
    rows = rows_of([grant(1, 10)], 1) + rows_of([entry("usage", -1, 0, [1, -1, 0])], 2)
    made, wrong = recomputed(rows)
    assert made.account_id == 2
    assert "grant 1 was made by no entry" in wrong[-1]
