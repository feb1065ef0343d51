"""The rules of `reconcile`, without Faust."""

from typing import Any

from faregate.streams.rules import reconcile
from faregate.streams.rules.reconcile import Entry, Finding, State, Sums


def entry(sequence: int, amount: int, balance: int, content: str | None = None) -> Entry:
    return Entry(sequence, content or f"c{sequence}", (amount, 0, 0), (balance, 0, 0))


def played(*entries: Entry, state: State | None = None) -> tuple[State, list[Finding]]:
    found: list[Finding] = []
    for each in entries:
        state, more = reconcile.entry(state, each)
        found += more
    assert state is not None
    return state, found


def sums(balance: int) -> Sums:
    return balance, 0, 0


THREE = (entry(1, 100, 100), entry(2, -30, 70), entry(3, -30, 40))


def test_what_adds_up_is_no_finding() -> None:
    state, found = played(*THREE)
    assert found == []
    assert reconcile.checkpoint(state, 3, sums(40), 0.0) == (state, [])
    assert reconcile.checkpoint(state, 2, sums(70), 0.0) == (state, [])


def test_a_gap_is_found_and_what_comes_late_fills_it() -> None:
    state, found = played(THREE[0], entry(5, -1, 10))
    assert found == [Finding("gap", 2, 4)]
    state, found = played(THREE[1], state=state)
    assert found == []
    assert state["missing"] == [3, 4]


def test_a_repeat_is_nothing_unless_it_says_something_else() -> None:
    state, found = played(*THREE)
    again, none = reconcile.entry(state, THREE[1])
    assert again is state
    assert none == []
    state, found = played(entry(2, -31, 69, "other"), state=state)
    assert found == [Finding("repeat_differs", 2, None, sums(70), sums(69))]
    assert played(entry(3, -29, 40), state=state)[1] == []  # the newer story is followed


def test_a_wrong_sum_is_found_in_each_of_the_three() -> None:
    state, _ = played(*THREE)
    for wrong in ((41, 0, 0), (39, 1, 0), (39, 0, 1)):
        found = reconcile.entry(state, Entry(4, "c", (-1, 0, 0), wrong))[1]
        assert found == [Finding("wrong_sum", 4, None, sums(39), wrong)]
    assert played(entry(1, 100, 101))[1] == [Finding("wrong_sum", 1, None, sums(100), sums(101))]


def test_an_account_that_began_before_what_is_kept_is_taken_as_it_is() -> None:
    assert played(entry(17, -5, 300), entry(18, -5, 295))[1] == []


def test_a_checkpoint_that_says_otherwise_is_found_before_and_after_its_entry() -> None:
    wrong = Finding("checkpoint_differs", 3, None, sums(41), sums(40))
    state, _ = played(*THREE)
    assert reconcile.checkpoint(state, 3, sums(41), 0.0)[1] == [wrong]
    ahead, found = reconcile.checkpoint(played(*THREE[:2])[0], 3, sums(41), 0.0)
    assert found == []
    state, found = played(THREE[2], state=ahead)
    assert found == [wrong]
    assert state["ahead"] == []


def test_a_checkpoint_ahead_waits_and_is_overdue_after_a_while() -> None:
    state, _ = reconcile.checkpoint(None, 3, sums(40), 100.0)
    assert reconcile.checkpoint(state, 3, sums(40), 100.0) == (state, [])
    assert reconcile.overdue(state, 100.0) == []
    assert reconcile.overdue(state, 100.1) == [Finding("not_announced", 3, None, sums(40), sums(0))]
    assert played(*THREE, state=state)[0]["ahead"] == []


def test_what_is_kept_of_an_account_is_bounded() -> None:
    state, _ = played(*(entry(n, 1, n) for n in range(1, 500)))
    assert len(state["recent"]) == reconcile.RECENT
    for n in range(1000, 1100):
        state, _ = reconcile.checkpoint(state, n, sums(n), 0.0)
    assert len(state["ahead"]) == reconcile.AHEAD
    state, _ = played(entry(10**9, 1, 1), state=state)
    assert len(state["missing"]) <= reconcile.MISSING


def test_a_replay_after_a_restore_says_the_same_at_another_time() -> None:
    said: dict[str, Any] = {"sequence": 3, "amount": -1, "at": "2025-01-01T00:00:00Z"}
    later = {**said, "at": "2025-01-02T00:00:00Z"}
    assert reconcile.content_hash(said) == reconcile.content_hash(later)
    assert reconcile.content_hash(said) != reconcile.content_hash({**said, "amount": -2})
