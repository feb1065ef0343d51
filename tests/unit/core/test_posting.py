"""The one place that changes an account refuses what cannot be, and leaves no trace of a refusal."""

from dataclasses import fields, replace
from datetime import timedelta
from typing import Any

import pytest
from tests.unit.core.twin import DEFAULT_BOOK, MICRO, START, Twin, key

from faregate.ledger.core import Account, Books, Grant, LedgerFault, Pipeline, Plan, Rules, State
from faregate.ledger.core.accounts import burn, counted, moved, with_grants, with_plan
from faregate.ledger.core.posting import Work, joined, post, take

ANN = Account("user:ann", 10, 4, 0, 2, START, (Grant(1, 6, 4), Grant(2, 4)), 10)


def work() -> Work:
    return Work(State(Books(), Rules(), {"user:ann": ANN}), START)


@pytest.mark.parametrize(
    "change",
    [
        {"amount": -7, "grants": ((1, -3, 0), (2, -4, 0))},  # of the first, 4 of 6 are held
        {"amount": -1, "grants": ()},
        {"amount": -1, "grants": ((2, -2, 0),)},
        {"held": 1, "grants": ()},
        {"held": 1, "grants": ((1, 0, 2),)},
        {"held": -5, "grants": ((1, 0, -5),)},
        {"held": 5, "grants": ((2, 0, 5),)},
        {"debt": -1},
        {"amount": 1, "grants": ((3, 1, 0),)},  # nobody said what the third is
    ],
    ids=str,
)
def test_an_entry_that_would_break_an_invariant_is_a_fault(change: dict[str, Any]) -> None:
    own = work()
    with pytest.raises(LedgerFault):
        post(own, "user:ann", "adjustment", **change)
    assert (own.entries, own.state.accounts["user:ann"]) == ([], ANN)


def test_nothing_is_charged_to_grants_that_do_not_have_it() -> None:
    assert burn(ANN, 6) == [(1, 2), (2, 4)]
    assert burn(ANN, 0) == []
    with pytest.raises(LedgerFault):
        burn(ANN, 7)


def test_a_grant_with_nothing_left_drops_out_and_an_unknown_one_is_a_fault() -> None:
    assert moved(ANN.grants, [(2, -4, 0)]) == (Grant(1, 6, 4),)
    with pytest.raises(LedgerFault):
        moved(ANN.grants, [(9, 0, 0)])


def test_grants_that_are_known_are_not_added_again() -> None:
    assert with_grants(ANN.grants, [Grant(1, 0), Grant(3, 0, 0, 1)]) == (
        Grant(3, 0, 0, 1),
        *ANN.grants,
    )
    assert with_grants(ANN.grants, [Grant(1, 0)]) is ANN.grants


def test_pins_are_split_first_ones_first() -> None:
    assert take(((1, 5), (2, 5)), 7) == (((1, 5), (2, 2)), ((2, 3),))
    assert take(((1, 5), (2, 5)), 5) == (((1, 5),), ((2, 5),))


def test_a_charge_names_each_grant_once() -> None:
    assert joined(((1, 5),), ()) == ((1, -5, -5),)
    assert joined((), ((1, 5),)) == ((1, -5, 0),)
    assert joined(((1, 5), (2, 1)), ((1, 2), (3, 4))) == ((1, -7, -5), (2, -1, -1), (3, -4, 0))


def test_undoing_a_command_leaves_no_trace() -> None:
    own = work()
    post(own, "user:ann", "debt", amount=-1, grants=((2, -1, 0),))
    other = replace(_pipeline("p1"), items=9)
    own.put(other)
    stood = own.state.accounts["user:ann"]
    own.before.clear()
    own.put_before.clear()
    post(own, "user:ann", "debt", amount=-1, grants=((2, -1, 0),))
    own.plan("user:ann", calls=7)
    for name in ("p1", "p1", "p2"):
        own.put(_pipeline(name))
    own.undo(1)
    assert len(own.entries) == 1
    assert own.state.accounts == {"user:ann": stood}
    assert own.state.pipelines == own.touched == {other.key: other}


def _pipeline(name: str) -> Pipeline:
    return Pipeline(key("pipeline", name), "user:ann", None, 1, (), (), None, b"")


def test_a_refusal_plans_nothing() -> None:
    twin = Twin(Rules(low_micro=MICRO))
    twin.apply_prices(DEFAULT_BOOK)
    twin.do(twin.make.grant("user:ann", MICRO, expires_at=twin.now + timedelta(days=1)))
    twin.do(twin.make.tier("user:ann", "starter"))
    twin.wait(days=30)  # the renewal and the expiry that a refusal finds change the plan
    refused = twin.make.grant("user:ann", 1, expires_at=twin.now)
    assert twin.do(refused).result == "rejected"


def test_counting_a_call_and_changing_a_plan_lose_nothing() -> None:
    values: dict[str, Any] = {f.name: f.name for f in fields(Plan)}
    plan = Plan(**{**values, "calls": 4})
    assert counted(plan, START) == replace(plan, calls=5)
    assert counted(Plan(), START) == Plan(calls=1, period_start=START)
    account = Account(**{f.name: f.name for f in fields(Account)})  # type: ignore[arg-type]
    assert with_plan(account, plan) == replace(account, plan=plan)
