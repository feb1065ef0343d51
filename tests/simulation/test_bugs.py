"""The list of planted bugs: each one, alone, makes the simulation fail within some histories."""

import pytest
from tests.simulation.bugs import BUGS, LISTS, Bug, caught_at
from tests.simulation.operations import make_history
from tests.simulation.play import play, shrink

MOST_HISTORIES = 1_000
"""A bug that needs more is found by luck: make what triggers it more frequent."""


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_planted_bug_is_caught(bug: Bug) -> None:
    assert caught_at(bug, MOST_HISTORIES) is not None


def test_the_list_has_at_least_twenty_bugs_of_different_names() -> None:
    assert len(LISTS) == 3
    assert len({bug.name for bug in BUGS}) == len(BUGS) >= 20


def test_without_a_bug_the_same_histories_hold() -> None:
    assert [play(make_history(seed)) for seed in range(40)] == [None] * 40


def test_a_failure_is_shrunk_to_the_operations_that_matter() -> None:
    bug = next(b for b in BUGS if b.name == "a_price_is_rounded_down_by_a_float")
    with bug.plant():
        broken = next(h for s in range(50) if play(h := make_history(s)))
        small = shrink(broken)
        assert play(small) is not None
        assert len(small.operations) <= 5
    assert play(small) is None
