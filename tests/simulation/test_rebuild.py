"""Rebuild: what entries alone say about accounts, and what they cannot say."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from faregate.ledger.core import Account, Entry, Grant, GrantTerms
from faregate.ledger.core.rebuild import (
    Rebuilt,
    Unsound,
    calls_in_period,
    differences,
    rebuild,
)

NOW = datetime(2025, 3, 1, tzinfo=UTC)
LATER = NOW + timedelta(days=1)
HOLD, OTHER = b"h" * 16, b"o" * 16


class Lines:
    """Entries of one account, one after the other."""

    def __init__(self, subject: str = "user:ann") -> None:
        self.subject = subject
        self.all: list[Entry] = []

    def add(self, kind: Any, amount: int = 0, held: int = 0, debt: int = 0, **more: Any) -> "Lines":
        n = len(self.all) + 1
        if "grants" not in more and (amount or held):
            more["grants"] = ((more.pop("of", n), amount, held),)
        entry = Entry(0, self.subject, n, NOW, kind, amount, held, debt, 0, 0, 0, **more)
        self.all.append(entry)
        return self

    def grant(self, amount: int, priority: int = 100, until: datetime | None = None) -> "Lines":
        return self.add("purchase", amount, terms=GrantTerms(priority, until))

    def rebuilt(self) -> Rebuilt:
        return rebuild(self.all)[self.subject]


def test_a_balance_is_the_sum_of_its_entries() -> None:
    account = Lines().grant(50).grant(10).add("usage", -20, of=1).rebuilt()
    assert (account.balance, account.held, account.debt, account.sequence) == (40, 0, 0, 3)
    assert account.granted == 60


def test_grants_come_back_in_burn_order_with_what_is_left() -> None:
    lines = Lines().grant(5).grant(6, until=LATER).grant(7, priority=50)
    account = lines.add("usage", -2, of=3).rebuilt()
    assert account.grants() == (
        Grant(3, 5, 0, 50),
        Grant(2, 6, 0, 100, LATER),
        Grant(1, 5, 0, 100),
    )


def test_a_grant_with_nothing_left_is_gone_until_a_refund_brings_it_back() -> None:
    lines = Lines().grant(5, until=LATER).add("usage", -5, of=1)
    assert lines.rebuilt().grants() == ()
    assert lines.add("refund", 5, of=1).rebuilt().grants() == (Grant(1, 5, 0, 100, LATER),)


def test_a_refund_of_paid_debt_makes_a_grant_of_its_own() -> None:
    lines = Lines().grant(5).add("usage", -5, debt=3, of=1).grant(10).add("debt", -3, debt=-3, of=3)
    lines.add("refund", 8, grants=((1, 5, 0), (5, 3, 0)), terms=GrantTerms(100, None))
    account = lines.rebuilt()
    assert [(g.number, g.remaining) for g in account.grants()] == [(1, 5), (3, 7), (5, 3)]
    assert (account.balance, account.debt, account.granted) == (15, 0, 15)


def test_holds_are_what_their_entries_leave_of_them() -> None:
    lines = Lines().grant(20).grant(20, priority=50)
    lines.add("hold", held=25, grants=((2, 0, 20), (1, 0, 5)), hold_id=HOLD)
    lines.add("hold", held=3, of=1, hold_id=OTHER)
    lines.add("usage", -22, -21, grants=((2, -20, -20), (1, -2, -1)), hold_id=HOLD)
    account = lines.rebuilt()
    assert account.held == 7
    assert (account.remaining(HOLD), account.pins(HOLD)) == (4, ((1, 4),))
    assert (account.remaining(OTHER), account.pins(OTHER)) == (3, ((1, 3),))
    lines.add("release", held=-4, of=1, hold_id=HOLD)
    assert lines.rebuilt().holds == {OTHER: {1: 3}}


def test_an_allocation_is_an_account_like_any_other() -> None:
    lines = Lines("member:1/2").add("adjustment", 40, terms=GrantTerms(100, None))
    account = lines.add("usage", -15, of=1).rebuilt()
    assert (account.balance, account.granted, account.available) == (25, 40, 25)


def test_accounts_do_not_mix() -> None:
    ann, org = Lines().grant(5), Lines("org:acme").grant(7)
    accounts = rebuild([ann.all[0], org.all[0]])
    assert {s: a.balance for s, a in accounts.items()} == {"user:ann": 5, "org:acme": 7}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (Lines().grant(5).add("usage", -6, of=1), "leaves -1 of grant 1"),
        (Lines().grant(5).add("usage", -2, of=9), "nobody made grant 9"),
        (Lines().grant(5).add("purchase", 3), "nobody made grant 2"),
        (Lines().grant(5).add("hold", held=6, of=1, hold_id=HOLD), "leaves 5 of grant 1, 6 held"),
        (Lines().grant(5).add("hold", held=2, of=1), "moves held for no hold"),
        (Lines().grant(5).add("usage", -2, grants=((1, -1, 0),)), "do not sum up"),
        (Lines().add("refund", debt=-1), "debt -1"),
        (
            Lines()
            .grant(9)
            .add("hold", held=2, of=1, hold_id=HOLD)
            .add("release", held=-1, of=1, hold_id=OTHER),
            "releases what was not held",
        ),
    ],
)
def test_entries_that_cannot_be_are_named(lines: Lines, message: str) -> None:
    with pytest.raises(Unsound, match=message):
        lines.rebuilt()


def test_a_gap_is_named() -> None:
    lines = Lines().grant(5).grant(6).grant(7)
    with pytest.raises(Unsound, match="entry 3 follows 1"):
        rebuild([lines.all[0], lines.all[2]])


def test_an_entry_older_than_the_one_before_is_named() -> None:
    lines = Lines().grant(5)
    account = Rebuilt("user:ann", sequence=0, last_at=LATER)
    with pytest.raises(Unsound, match="older"):
        account.add(lines.all[0])


def test_differences_say_what_a_live_account_has_wrong() -> None:
    rebuilt = Lines().grant(5).rebuilt()
    right = Account("user:ann", 5, 0, 0, 1, NOW, (Grant(1, 5),), 5)
    assert differences(rebuilt, right) == []
    wrong = Account("user:ann", 6, 0, 0, 1, NOW, (Grant(1, 6),), 5)
    assert differences(rebuilt, wrong)[0] == "balance is 6, the entries make it 5"
    assert [text.split()[0] for text in differences(rebuilt, wrong)] == ["balance", "grants"]


def test_calls_count_from_the_start_of_each_users_period() -> None:
    counted = [("user:ann", NOW, 1), ("user:ann", LATER, 2), ("user:bob", LATER, 1)]
    assert calls_in_period(counted, {"user:ann": LATER}) == {"user:ann": 2}
    assert calls_in_period(counted, {"user:ann": NOW, "user:cat": NOW}) == {
        "user:ann": 3,
        "user:cat": 0,
    }
