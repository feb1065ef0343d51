"""The hash chain: no column, and no earlier entry, can change without changing the hash."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faregate.ledger.chain import COLUMNS, GENESIS, entry_hash

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
AT = datetime(2025, 3, 1, 12, 0, 0, 1, tzinfo=UTC)
ROW: dict[str, Any] = {
    "id": 1,
    "account_id": 2,
    "sequence": 3,
    "at": AT,
    "amount": -4,
    "held_delta": -5,
    "debt_delta": 6,
    "balance": 7,
    "held": 8,
    "debt": 9,
    "outcome_id": 10,
    "kind": "usage",
    "cause": UUID(int=11),
    "hold_id": UUID(int=12),
    "user_id": 13,
    "org_id": 14,
    "price_version": 15,
    "phase": "nlp",
    "provider": "openai",
    "model": "gpt-4",
    "units": 16,
    "input_tokens": 17,
    "output_tokens": 18,
    "byok": False,
    "occurred_at": AT,
    "reason": "late",
    "grants": [19, -20, 21],
    "priority": 22,
    "expires_at": AT,
    "tier": "trial",
    "alert": "exhausted",
}
INTEGERS = [c for c in COLUMNS if type(ROW[c]) is int]
NUMBERS = COLUMNS[: COLUMNS.index("kind")]
NULLABLE = COLUMNS[COLUMNS.index("hold_id") :]
MICROSECOND = timedelta(microseconds=1)

integers = st.integers(-(2**63), 2**63 - 1)
times = st.integers(-(10**15), 10**16).map(lambda n: EPOCH + n * MICROSECOND)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
values = {
    int: integers,
    datetime: times,
    str: texts,
    UUID: st.uuids(),
    bool: st.booleans(),
    list: st.lists(integers, max_size=6),
}
rows = st.tuples(
    *(
        (st.none() | values[type(ROW[c])]) if c in NULLABLE else values[type(ROW[c])]
        for c in COLUMNS
    )
)


def hash_of(**changes: Any) -> bytes:
    return entry_hash(GENESIS, tuple({**ROW, **changes}.values()))


def changed(value: Any) -> list[Any]:
    match value:
        case bool():
            return [not value]
        case int():
            return [value + 1, -value, value + 256, value + 2**32, value ^ 2**62]
        case str():
            return [value + "x", value[:-1], value.upper(), "", value + "\0"]
        case list():
            return [[], value[:2], [*value, 1], value[::-1], [value[0] + 1, *value[1:]]]
        case UUID():
            return [UUID(int=value.int + 1), UUID(int=value.int << 64)]
    return [value + MICROSECOND, value - timedelta(days=1)]


def test_the_test_knows_every_column() -> None:
    assert tuple(ROW) == COLUMNS


@pytest.mark.parametrize("column", COLUMNS)
def test_a_change_of_any_one_column_changes_the_hash(column: str) -> None:
    others = [hash_of(**{column: value}) for value in changed(ROW[column])]
    assert len({hash_of(), *others}) == len(others) + 1


@pytest.mark.parametrize("column", NULLABLE)
def test_null_is_no_value_at_all(column: str) -> None:
    empty = {int: 0, str: "", bool: False, UUID: UUID(int=0), list: []}.get(type(ROW[column]), AT)
    assert hash_of(**{column: None}) != hash_of(**{column: empty})


@pytest.mark.parametrize("column", NULLABLE)
def test_null_zero_the_empty_text_and_false_all_differ(column: str) -> None:
    alike: list[Any] = [
        None,
        0,
        "",
        [],
        False,
        UUID(int=0),
        EPOCH,
        "\0" * 8,
        "0",
        "None",
        "\xff\xff\xff\xff",
    ]
    assert len({hash_of(**{column: value}) for value in alike}) == len(alike)


@pytest.mark.parametrize("column", INTEGERS)
@pytest.mark.parametrize("value", [-(2**63), -1, 0, 2**63 - 1])
def test_every_bigint_can_be_hashed(column: str, value: int) -> None:
    assert hash_of(**{column: value}) != hash_of()


def test_neighbours_cannot_swap_or_share_their_text() -> None:
    assert hash_of(provider="ab", model="c") != hash_of(provider="a", model="bc")
    assert hash_of(provider="a", model="bsc") != hash_of(provider="asb", model="c")
    assert hash_of(provider="x", model=None) != hash_of(provider=None, model="x")
    assert hash_of(units=1, input_tokens=2) != hash_of(units=2, input_tokens=1)
    assert hash_of(amount=1, held_delta=2) != hash_of(amount=2, held_delta=1)


def test_a_text_cannot_hold_the_mark_or_the_length_of_another() -> None:
    assert hash_of(provider="a", model="b") != hash_of(provider="a\0\0\0\x02sb", model=None)
    assert hash_of(provider=None, model="b") != hash_of(provider="", model="b")


@pytest.mark.parametrize("position", [0, 15, 31])
def test_the_hash_covers_the_entry_before(position: int) -> None:
    previous = bytearray(GENESIS)
    previous[position] = 1
    assert entry_hash(bytes(previous), tuple(ROW.values())) != hash_of()


def test_a_stored_row_hashes_like_the_row_that_was_written() -> None:
    """`seal` hashes the row alone; `verify` reads it back with its hash behind it."""
    row = tuple(ROW.values())
    assert entry_hash(GENESIS, (*row, b"hash")) == entry_hash(GENESIS, row)
    assert entry_hash(GENESIS, list(row)) == entry_hash(GENESIS, row)


def test_a_moment_is_the_same_in_every_zone() -> None:
    elsewhere = AT.astimezone(datetime.fromisoformat("2025-01-01T00:00:00+05:30").tzinfo)
    assert hash_of(at=elsewhere, occurred_at=elsewhere) == hash_of()


def test_the_format_is_pinned() -> None:
    """A ledger that exists must stay verifiable: a new format needs a new version byte."""
    assert hash_of().hex() == "87001ccb5e7f95e7d8217094cd682e4f5a9dc52d093ec69cfc7db9436027d585"
    assert (
        hash_of(**dict.fromkeys(NULLABLE)).hex()
        == "bc78fd14121bb254a20594cc9e98c282c5822bdce8fde9b3abd3eac8c219d5c8"
    )


@settings(deadline=None, print_blob=True, max_examples=300)
@given(rows, rows)
def test_different_rows_have_different_hashes(one: tuple[Any, ...], other: tuple[Any, ...]) -> None:
    assert (entry_hash(GENESIS, one) == entry_hash(GENESIS, other)) == (one == other)


@settings(deadline=None, print_blob=True, max_examples=300)
@given(rows, st.sampled_from(COLUMNS), st.data())
def test_rows_that_differ_in_one_column_have_different_hashes(
    row: tuple[Any, ...], column: str, data: st.DataObject
) -> None:
    place = COLUMNS.index(column)
    strategy = values[type(ROW[column])]
    value = data.draw(st.none() | strategy if column in NULLABLE else strategy)
    other = (*row[:place], value, *row[place + 1 :])
    assert (entry_hash(GENESIS, row) == entry_hash(GENESIS, other)) == (row == other)
