"""The contract's organizations: allocations that limit what members may spend of the org's."""

from datetime import timedelta

import pytest
from tests.unit.core.saying import amounts, give, kinds, micro, owe, reason, use
from tests.unit.core.twin import DEFAULT_BOOK, Twin

from faregate.ledger.core import Command

ANN = "member:org:acme/user:ann"


@pytest.fixture
def twin() -> Twin:
    """An org of 100 credits whose members need an allocation."""
    twin = Twin()
    twin.apply_prices(DEFAULT_BOOK, twin.now - timedelta(days=300))
    give(twin, "org:acme", 100)
    twin.do(twin.make.policy("allocated"))
    return twin


def allocate(twin: Twin, amount: float | None, **terms: timedelta) -> object:
    until = twin.now + terms["lasting"] if terms else None
    change = None if amount is None else micro(amount)
    return reason(twin.do(twin.make.allocate("ann", change, expires_at=until)))


class TestBothMustCover:
    def test_both_are_held_and_both_go_down(self, twin: Twin) -> None:
        allocate(twin, 50)
        answer = twin.do(twin.make.request(org="acme"))
        assert (answer.facts["payer"], answer.facts["reserved"]) == ("org:acme", 45)
        assert twin.figures("org:acme") == (100, 45, 0)
        assert twin.figures(ANN) == (50, 45, 0)
        use(twin, "u1", 30, org="acme")
        assert twin.figures("org:acme") == (70, 15, 0)
        assert twin.figures(ANN) == (20, 15, 0)
        twin.do(twin.make.finished(usage_events=1, org="acme"))
        assert twin.figures("org:acme") == (70, 0, 0)
        assert twin.figures(ANN) == (20, 0, 0)

    def test_without_an_allocation_there_is_no_falling_back(self, twin: Twin) -> None:
        give(twin, "user:ann", 100)
        answer = twin.do(twin.make.request(org="acme"))
        assert (reason(answer), answer.facts["status"]) == ("no_allocation", 403)
        assert answer.facts["considered"] == [("org:acme", 0)]

    def test_a_member_without_an_allocation_has_none(self, twin: Twin) -> None:
        twin.do(twin.make.member("ann"))
        assert reason(twin.do(twin.make.request(org="acme"))) == "no_allocation"
        assert reason(twin.do(twin.make.deduct(1, org="acme"))) == "no_allocation"

    def test_an_allocation_that_is_used_up_is_another_reason(self, twin: Twin) -> None:
        allocate(twin, 46)
        twin.do(twin.make.deduct(micro(2), org="acme"))
        answer = twin.do(twin.make.request(org="acme"))
        assert (reason(answer), answer.facts["status"]) == ("allocation_exhausted", 402)
        assert answer.facts["considered"] == [("org:acme", 44)]
        assert answer.facts["allocation"] == answer.facts["available"] == 44
        twin.do(twin.make.deduct(micro(44), org="acme"))
        assert reason(twin.do(twin.make.deduct(1, org="acme"))) == "allocation_exhausted"

    def test_an_org_that_cannot_pay_is_the_last_reason(self, twin: Twin) -> None:
        allocate(twin, 500)
        answer = twin.do(twin.make.deduct(micro(101), org="acme"))
        assert reason(answer) == "insufficient_credits"
        assert answer.facts["considered"] == [("org:acme", 100)]

    def test_debt_of_the_org_comes_before_its_allocations(self, twin: Twin) -> None:
        twin.do(twin.make.set_balance("org:acme", 0))
        owe(twin, "org:acme", 3)
        assert reason(twin.do(twin.make.request(org="acme"))) == "debt_outstanding"

    def test_debt_of_the_user_is_none_of_the_orgs(self, twin: Twin) -> None:
        owe(twin, "user:ann", 3)
        allocate(twin, 50)
        assert twin.do(twin.make.request(org="acme")).result == "initiated"

    def test_what_costs_nothing_needs_no_allocation(self, twin: Twin) -> None:
        assert twin.do(twin.make.request(org="acme", pipeline="nlp")).result == "initiated"
        assert twin.do(twin.make.deduct(0, org="acme")).result == "charged"

    def test_allocations_may_exceed_the_org_and_spending_may_not(self, twin: Twin) -> None:
        for user in ("ann", "bob"):
            twin.do(twin.make.allocate(user, micro(80)))
        assert twin.do(twin.make.deduct(micro(80), org="acme")).result == "charged"
        answer = twin.do(twin.make.deduct(micro(80), org="acme", user="bob"))
        assert reason(answer) == "insufficient_credits"

    def test_a_pool_takes_no_notice_of_allocations(self, twin: Twin) -> None:
        allocate(twin, 5)
        twin.do(twin.make.policy("pool"))
        assert twin.do(twin.make.request(org="acme")).result == "initiated"
        assert twin.figures(ANN) == (5, 0, 0)


class TestUsage:
    def test_usage_nobody_reserved_for_takes_what_there_is_of_the_allocation(
        self, twin: Twin
    ) -> None:
        allocate(twin, 5)
        use(twin, "u1", 8, pipeline_id=None, org="acme")
        assert kinds(twin.entries[-2:]) == [
            ("org:acme", "usage", -8, 0, 0),
            (ANN, "usage", -5, 0, 0),
        ]

    def test_usage_beyond_the_hold_too_and_debt_is_the_orgs_alone(self, twin: Twin) -> None:
        allocate(twin, 50)
        twin.do(twin.make.request(org="acme"))
        use(twin, "u1", 120, org="acme")
        assert twin.figures("org:acme") == (0, 0, 20)
        assert twin.figures(ANN) == (0, 0, 0)

    def test_the_allocation_goes_down_by_what_became_the_orgs_debt_too(self, twin: Twin) -> None:
        allocate(twin, 150)
        use(twin, "u1", 120, pipeline_id=None, org="acme")
        assert twin.figures("org:acme") == (0, 0, 20)
        assert twin.figures(ANN) == (30, 0, 0)

    def test_usage_of_somebody_without_an_allocation_is_the_orgs(self, twin: Twin) -> None:
        use(twin, "u1", 8, pipeline_id=None, org="acme")
        assert kinds(twin.entries[-1:]) == [("org:acme", "usage", -8, 0, 0)]

    def test_a_hold_keeps_to_the_policy_it_was_made_by(self, twin: Twin) -> None:
        allocate(twin, 50)
        twin.do(twin.make.request(org="acme"))
        twin.do(twin.make.policy("pool"))
        use(twin, "u1", 10, org="acme")
        assert twin.figures(ANN) == (40, 35, 0)

    def test_a_refund_gives_back_to_both(self, twin: Twin) -> None:
        allocate(twin, 50)
        twin.do(twin.make.deduct(micro(30), org="acme"))
        assert twin.do(twin.refund()).facts["amount"] == 30
        assert twin.figures("org:acme") == (100, 0, 0)
        assert twin.figures(ANN) == (50, 0, 0)

    def test_no_member_ever_raises_an_alert(self, twin: Twin) -> None:
        twin.do(twin.make.alerts("org:acme", micro(1), 1))
        allocate(twin, 5)
        twin.do(twin.make.deduct(micro(5), org="acme"))
        assert [e.alert for e in twin.entries] == [None] * len(twin.entries)


class TestAllocations:
    def test_they_can_be_raised_and_lowered(self, twin: Twin) -> None:
        allocate(twin, 10)
        allocate(twin, 5)
        assert twin.figures(ANN) == (15, 0, 0)
        allocate(twin, -12)
        assert twin.figures(ANN) == (3, 0, 0)
        assert twin.entries[-1].reason == "allocation"

    def test_not_below_what_is_used_or_held(self, twin: Twin) -> None:
        allocate(twin, 50)
        twin.do(twin.make.request(org="acme"))
        assert allocate(twin, -5.000001) == "below_held"
        assert allocate(twin, -5) is None
        assert twin.figures(ANN) == (45, 45, 0)

    def test_a_reclaim_takes_all_that_is_not_held(self, twin: Twin) -> None:
        allocate(twin, 50)
        twin.do(twin.make.request(org="acme"))
        answer = twin.do(twin.make.allocate("ann", None))
        assert (answer.facts["amount"], answer.facts["grant"]) == (-5, None)
        assert twin.figures(ANN) == (45, 45, 0)
        assert twin.do(twin.make.allocate("ann", None)).facts["amount"] == 0

    def test_a_reclaim_of_all_leaves_no_allocation(self, twin: Twin) -> None:
        allocate(twin, 50)
        allocate(twin, None)
        assert reason(twin.do(twin.make.request(org="acme"))) == "no_allocation"

    def test_they_expire(self, twin: Twin) -> None:
        allocate(twin, 50, lasting=timedelta(seconds=10))
        twin.wait(seconds=10)
        assert reason(twin.do(twin.make.request(org="acme"))) == "no_allocation"
        assert twin.figures(ANN) == (0, 0, 0)

    @pytest.mark.parametrize("way", ["deduct", "reserve", "usage"])
    def test_what_expired_pays_for_nothing(self, twin: Twin, way: str) -> None:
        allocate(twin, 50, lasting=timedelta(seconds=10))
        twin.wait(seconds=10)
        asked: dict[str, Command] = {
            "deduct": twin.make.deduct(1, org="acme"),
            "reserve": twin.make.reserve("h1", 1, org="acme"),
            "usage": twin.make.usage("u1", twin.now, pipeline_id=None, org="acme"),
        }
        twin.do(asked[way])
        assert [e.kind for e in twin.entries if e.subject == ANN][:2] == ["adjustment", "expiry"]

    def test_what_expired_cannot_be_taken_back(self, twin: Twin) -> None:
        allocate(twin, 50, lasting=timedelta(seconds=10))
        allocate(twin, 5)
        twin.wait(seconds=10)
        assert allocate(twin, -6) == "below_held"
        assert twin.do(twin.make.allocate("ann", None)).facts["amount"] == -5

    def test_one_that_is_over_when_it_is_made_is_refused(self, twin: Twin) -> None:
        assert allocate(twin, 50, lasting=timedelta(0)) == "expires_in_the_past"
        assert twin.account(ANN).plan.role is None, "no trace"

    def test_one_stays_below_a_billion(self, twin: Twin) -> None:
        allocate(twin, 1)
        assert allocate(twin, 999_999_999) == "amount_out_of_range"

    def test_whoever_gets_one_is_a_member(self, twin: Twin) -> None:
        allocate(twin, 1)
        assert twin.account(ANN).plan.role == "member"
        twin.do(twin.make.member("ann", "admin"))
        allocate(twin, 1)
        assert twin.account(ANN).plan.role == "admin"

    def test_nothing_is_taken_back_of_who_is_no_member(self, twin: Twin) -> None:
        assert allocate(twin, None) == allocate(twin, -1) == "not_a_member"
        allocate(twin, 1)
        twin.do(twin.make.member("ann", "removed"))
        assert allocate(twin, None) == "not_a_member"
        assert twin.account(ANN).plan.role == "removed"


class TestMembers:
    def test_who_is_removed_loses_what_is_free_and_settles_what_is_held(self, twin: Twin) -> None:
        allocate(twin, 50)
        twin.do(twin.make.request(org="acme"))
        twin.do(twin.make.member("ann", "removed"))
        assert twin.figures(ANN) == (45, 45, 0)
        assert twin.entries[-1].reason == "member_removed"
        use(twin, "u1", 40, org="acme")
        assert twin.figures(ANN) == (5, 5, 0)
        twin.do(twin.make.finished(usage_events=1, org="acme"))
        assert amounts(twin.entries[-1:]) == [("adjustment", -5)]
        assert twin.figures(ANN) == (0, 0, 0)
        assert twin.figures("org:acme") == (60, 0, 0)
        assert reason(twin.do(twin.make.request("p2", org="acme"))) == "no_allocation"

    def test_a_refund_gives_nothing_to_spend_to_who_was_removed(self, twin: Twin) -> None:
        allocate(twin, 50)
        twin.do(twin.make.deduct(micro(30), org="acme"))
        twin.do(twin.make.member("ann", "removed"))
        twin.do(twin.refund())
        assert twin.figures(ANN) == (0, 0, 0)
        assert twin.figures("org:acme") == (100, 0, 0)
        assert reason(twin.do(twin.make.deduct(1, org="acme"))) == "no_allocation"

    def test_what_who_was_removed_still_uses_is_the_orgs_alone(self, twin: Twin) -> None:
        allocate(twin, 50)
        twin.do(twin.make.member("ann", "removed"))
        use(twin, "u1", 3, pipeline_id=None, org="acme")
        assert kinds(twin.entries[-1:]) == [("org:acme", "usage", -3, 0, 0)]

    def test_who_comes_back_begins_with_nothing_free(self, twin: Twin) -> None:
        allocate(twin, 50)
        twin.do(twin.make.member("ann", "removed"))
        twin.do(twin.make.member("ann"))
        assert reason(twin.do(twin.make.request(org="acme"))) == "no_allocation"

    def test_only_a_member_can_be_removed(self, twin: Twin) -> None:
        assert reason(twin.do(twin.make.member("ann", "removed"))) == "not_a_member"
        twin.do(twin.make.member("ann"))
        assert twin.do(twin.make.member("ann", "removed")).facts["from"] == "member"
        assert reason(twin.do(twin.make.member("ann", "removed"))) == "not_a_member"

    def test_what_a_policy_was_before_is_said(self, twin: Twin) -> None:
        facts = twin.do(twin.make.policy("pool")).facts
        assert facts == {"account": "org:acme", "policy": "pool", "from": "allocated"}
