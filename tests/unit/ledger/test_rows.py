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
        "INSERT INTO refs (outcome_id, event_id) SELECT * FROM unnest($1::bigint[], $2::text[])"
    )
    assert change.values == [(1, 2), ("a", None)]
