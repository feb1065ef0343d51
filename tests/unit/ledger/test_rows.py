"""Several changes in one statement: their parameters keep their values, their order is kept."""

from __future__ import annotations

from faregate.ledger.rows import Rows, _together, insertion


def test_changes_are_put_together_with_parameters_of_their_own() -> None:
    sql = _together((("UPDATE a SET x = $1, y = $2;", 2), ("DELETE FROM b WHERE z = $1", 1)), "$1")
    assert sql == (
        "WITH c1 AS (DELETE FROM b WHERE z = $3), c0 AS (UPDATE a SET x = $1, y = $2) $4"
    )


def test_an_insertion_has_an_array_of_its_type_for_each_column() -> None:
    change = insertion(Rows("refs", ("outcome_id", "event_id"), [(1, "a"), (2, None)]))
    assert change.sql == (
        "INSERT INTO refs (outcome_id, event_id) SELECT outcome_id, event_id "
        "FROM unnest($1::bigint[], $2::text[]) AS new (outcome_id, event_id)"
    )
    assert change.values == [(1, 2), ("a", None)]


def test_a_list_goes_as_text_since_unnest_would_take_it_apart() -> None:
    change = insertion(Rows("entries", ("id", "grants"), [(1, [2, -3, 4]), (5, None)]))
    assert change.values == [(1, 5), ["{2,-3,4}", None]]
    assert "SELECT id, grants::bigint[] FROM unnest($1::bigint[], $2::text[])" in change.sql


def test_one_row_goes_as_it_is() -> None:
    change = insertion(Rows("entries", ("id", "grants", "kind"), [(1, [2, -3, 4], None)]))
    assert change.sql == (
        "INSERT INTO entries (id, grants, kind) VALUES ($1::bigint, $2::bigint[], $3::text)"
    )
    assert change.values == (1, [2, -3, 4], None)
