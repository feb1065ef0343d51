"""The chain of the audit log: no column, and no earlier row, can change without changing it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest

from faregate.ledger.audit import GENESIS, row_hash

ROW: dict[str, Any] = {
    "id": 1,
    "at": datetime(2026, 3, 1, 12, 0, 0, 1, tzinfo=UTC),
    "actor_key": UUID(int=2),
    "action": "set_tier",
    "result": "changed",
    "account_id": 3,
    "outcome_id": 4,
    "metadata": '{"tier": "trial", "now": false}',
}


def hash_of(**changes: Any) -> bytes:
    return row_hash(GENESIS, list({**ROW, **changes}.values()))


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("id", 2),
        ("at", ROW["at"] + timedelta(microseconds=1)),
        ("actor_key", UUID(int=3)),
        ("action", "set_tie"),
        ("result", "changed "),
        ("account_id", None),
        ("outcome_id", None),
        ("outcome_id", 0),
        ("metadata", '{"tier": "trial", "now": 0}'),
        ("metadata", '{"tier": "trial"}'),
    ],
)
def test_a_change_of_any_one_column_changes_the_hash(column: str, value: object) -> None:
    assert hash_of(**{column: value}) != hash_of()


def test_neighbours_cannot_swap_or_share_their_text() -> None:
    assert hash_of(action="a", result="b") != hash_of(action="b", result="a")
    assert hash_of(action='a", "b', result="c") != hash_of(action="a", result='b", "c')
    assert hash_of(account_id=None, outcome_id=3) != hash_of(account_id=3, outcome_id=None)


def test_the_hash_covers_the_row_before() -> None:
    assert row_hash(b"\x01" * 32, list(ROW.values())) != hash_of()


def test_the_order_and_the_blanks_of_metadata_say_nothing() -> None:
    assert hash_of(metadata='{"now":false,"tier":"trial"}') == hash_of()


@pytest.mark.parametrize(
    ("written", "kept"),
    [("1e+16", "10000000000000000"), ("1.0", "1.0"), ("-0.0", "0.0"), ("1e-07", "0.0000001")],
)
def test_a_number_is_the_same_as_postgresql_gives_it_back(written: str, kept: str) -> None:
    assert hash_of(metadata=f'{{"n": {written}}}') == hash_of(metadata=f'{{"n": {kept}}}')


def test_a_moment_is_the_same_in_every_zone() -> None:
    elsewhere = ROW["at"].astimezone(timezone(timedelta(hours=5)))
    assert hash_of(at=elsewhere) == hash_of()


def test_the_format_is_pinned() -> None:
    """A log that exists must stay verifiable."""
    assert hash_of().hex() == "1a45ca6b0c04b8f2a09a61f22d212f53e9a053209464d77cfa94b30270eee311"
