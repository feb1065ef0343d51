"""Random histories with crashes, duplicates, reordering and clock jumps never break an invariant.

A smaller run of what `make simulate` does; another range of seeds is one setting away.
"""

import os

import pytest
from tests.simulation.operations import History, make_history
from tests.simulation.play import play, report

HISTORIES = int(os.environ.get("FAREGATE_SIMULATED_HISTORIES", "1000"))
PARTS = 4


@pytest.mark.parametrize("part", range(PARTS))
def test_no_history_breaks_an_invariant(part: int) -> None:
    first = 1_000_000 * (part + 1)
    for seed in range(first, first + HISTORIES // PARTS):
        history = make_history(seed)
        broke = play(history)
        assert broke is None, report(history, broke)


ONCE_BROKEN = {
    "kept usage was priced by the tier of a period that was over": History(
        4486,
        1,
        (
            ("prices", 0, 0, -3_456_000),
            ("usage", 13, 3, None, "user:dan", None, 0, False, None, None, "acme/own", 50_000, 0),
            ("crash", 3, 8),
            ("tier", 2054, "user:dan", "starter", False),
            ("tier", 2056, "user:dan", "trial", False),
            ("sweep", 2079),
            ("run", 4, 19),
            ("clock", 2_678_400),
        ),
    ),
}


@pytest.mark.parametrize("what", ONCE_BROKEN)
def test_what_broke_once_holds(what: str) -> None:
    assert play(ONCE_BROKEN[what]) is None


def test_a_seed_is_always_the_same_history() -> None:
    assert make_history(7) == make_history(7)
    assert make_history(7) != make_history(8)
