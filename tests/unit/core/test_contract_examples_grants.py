"""The contract's grants: burn order, expiry, what holds pin, refunds."""

from datetime import timedelta
from typing import Any

import pytest
from tests.unit.core.model_parts import Answer
from tests.unit.core.saying import amounts, give, kinds, left, micro, owe, reason, use
from tests.unit.core.twin import Twin


def lasting(twin: Twin, **duration: float) -> dict[str, Any]:
    return {"expires_at": twin.now + timedelta(**duration)}


class TestBurnOrder:
    def test_lower_priority_number_first_then_soonest_expiry_then_oldest(self, twin: Twin) -> None:
        give(twin, "user:ann", 1)
        give(twin, "user:ann", 1, **lasting(twin, days=9))
        give(twin, "user:ann", 1, **lasting(twin, days=3))
        give(twin, "user:ann", 1, priority=50)
        give(twin, "user:ann", 1, priority=200, **lasting(twin, days=1))
        give(twin, "user:ann", 1)
        give(twin, "user:ann", 1, **lasting(twin, days=3))
        assert list(left(twin, "user:ann")) == [4, 3, 7, 2, 1, 6, 5]
        for number in (4, 3, 7, 2, 1, 6, 5):
            use(twin, f"u{number}", pipeline_id=None)
            assert twin.entries[-1].grants == ((number, -micro(1), 0),)

    def test_an_entry_says_which_grants_paid_what(self, twin: Twin) -> None:
        give(twin, "user:ann", 3)
        give(twin, "user:ann", 2, priority=1)
        use(twin, "u1", 4, pipeline_id=None)
        assert twin.entries[-1].grants == ((2, -micro(2), 0), (1, -micro(2), 0))
        assert left(twin, "user:ann") == {1: 1}

    def test_holds_deductions_debt_and_set_balance_burn_in_the_same_order(self, twin: Twin) -> None:
        for subject in ("user:ann", "user:bob", "user:cat"):
            give(twin, subject, 10)
            give(twin, subject, 10, **lasting(twin, days=3))
        twin.do(twin.make.request(items=6))  # 15 credits
        assert twin.entries[-1].grants == ((2, 0, micro(10)), (1, 0, micro(5)))
        twin.do(twin.make.deduct(micro(15), user="bob"))
        assert twin.entries[-1].grants == ((2, -micro(10), 0), (1, -micro(5), 0))
        twin.do(twin.make.set_balance("user:cat", 5))
        assert twin.entries[-1].grants == ((2, -micro(10), 0), (1, -micro(5), 0))

    def test_a_hold_settles_what_it_pinned_though_better_grants_came_since(
        self, twin: Twin
    ) -> None:
        give(twin, "user:ann", 45)
        twin.do(twin.make.request())
        give(twin, "user:ann", 10, priority=1)
        use(twin, "u1", 20)
        assert twin.entries[-1].grants == ((1, -micro(20), -micro(20)),)
        use(twin, "u2", 30)
        assert [*twin.entries[-1].grants] == [(1, -micro(25), -micro(25)), (3, -micro(5), 0)]

    def test_beyond_the_hold_the_same_grant_can_pay_from_what_is_free_of_it(
        self, twin: Twin
    ) -> None:
        give(twin, "user:ann", 50)
        twin.do(twin.make.request())
        use(twin, "u1", 48)
        assert twin.entries[-1].grants == ((1, -micro(48), -micro(45)),)

    def test_grants_keep_their_terms(self, twin: Twin) -> None:
        until = twin.now + timedelta(days=1)
        give(
            twin,
            "org:acme",
            1,
            kind="bonus",
            priority=7,
            expires_at=until,
            source="campaign",
            allocated_by="user:admin",
            notes="for trying",
            reason="spring",
        )
        terms = twin.entries[-1].terms
        assert terms is not None
        assert (terms.priority, terms.expires_at, terms.source) == (7, until, "campaign")
        assert (terms.allocated_by, terms.notes) == ("user:admin", "for trying")
        assert twin.entries[-1].reason == "spring"


class TestExpiry:
    def test_a_grant_that_expired_a_second_ago_never_pays(self, twin: Twin) -> None:
        give(twin, "user:ann", 45, **lasting(twin, seconds=10))
        twin.wait(seconds=11)
        assert reason(twin.do(twin.make.request())) == "insufficient_credits"
        assert amounts(twin.entries[-1:]) == [("expiry", -45)]
        assert twin.figures("user:ann") == (0, 0, 0)

    def test_it_pays_to_the_last_moment_and_not_at_it(self, twin: Twin) -> None:
        give(twin, "user:ann", 90, **lasting(twin, seconds=10))
        twin.wait(seconds=10, microseconds=-1)
        assert twin.do(twin.make.request("p1")).result == "initiated"
        twin.wait(microseconds=1)
        assert reason(twin.do(twin.make.request("p2", batch="b2"))) == "insufficient_credits"

    def test_the_orgs_the_users_and_the_members_grants_expire_before_the_decision(
        self, twin: Twin
    ) -> None:
        soon = lasting(twin, seconds=10)
        for subject in ("org:acme", "user:ann"):
            give(twin, subject, 45, **soon)
        give(twin, "org:acme", 50)
        twin.do(twin.make.allocate("ann", micro(45), **soon))
        twin.do(twin.make.policy("allocated"))
        twin.wait(seconds=10)
        assert reason(twin.do(twin.make.request(org="acme"))) == "no_allocation"
        assert [e.kind for e in twin.entries[-3:]] == ["expiry"] * 3
        assert {e.subject for e in twin.entries[-3:]} == {
            "org:acme",
            "user:ann",
            "member:org:acme/user:ann",
        }

    def test_usage_and_deductions_expire_first_as_well(self, twin: Twin) -> None:
        for user in ("ann", "bob"):
            give(twin, f"user:{user}", 5, **lasting(twin, seconds=10))
        twin.wait(seconds=10)
        use(twin, "u1", 2, pipeline_id=None)
        assert twin.figures("user:ann") == (0, 0, 2)
        assert reason(twin.do(twin.make.deduct(1, user="bob"))) == "insufficient_credits"
        assert twin.figures("user:bob") == (0, 0, 0)

    def test_the_sweeper_expires_what_nobody_asks_about_once(self, twin: Twin) -> None:
        give(twin, "user:ann", 5, **lasting(twin, seconds=10))
        assert twin.submit(twin.make.refresh("user:ann")) == [None]
        twin.wait(seconds=10)
        answers = twin.submit(twin.make.refresh("user:ann"), twin.make.refresh("user:ann"))
        assert answers == [Answer("refreshed", {"account": "user:ann"}), None]
        assert amounts(twin.entries[-1:]) == [("expiry", -5)]
        assert twin.entries[-1].reason == "expired"

    def test_what_a_live_hold_pinned_still_settles(self, twin: Twin) -> None:
        give(twin, "user:ann", 50, **lasting(twin, seconds=10))
        twin.do(twin.make.request())
        twin.wait(seconds=11)
        use(twin, "u1", 40)
        assert amounts(twin.entries[-2:]) == [("expiry", -5), ("usage", -40)]
        assert twin.figures("user:ann") == (5, 5, 0)

    def test_what_is_released_after_its_time_expires_at_once_and_pays_no_debt(
        self, twin: Twin
    ) -> None:
        give(twin, "user:ann", 45, **lasting(twin, seconds=10))
        twin.do(twin.make.request())
        twin.wait(seconds=11)
        use(twin, "u1", 3, pipeline_id=None)
        assert twin.figures("user:ann") == (45, 45, 3)
        twin.do(twin.make.finished(usage_events=0))
        assert amounts(twin.entries[-2:]) == [("release", 0), ("expiry", -45)]
        assert twin.figures("user:ann") == (0, 0, 3)

    def test_a_grant_that_is_over_when_it_comes_is_refused(self, twin: Twin) -> None:
        now = twin.now
        for until in (now, now - timedelta(days=1)):
            refused = twin.make.grant("user:ann", micro(5), expires_at=until)
            assert reason(twin.do(refused)) == "expires_in_the_past"
        assert twin.entries == []

    def test_a_refused_command_leaves_no_expiry_behind(self, twin: Twin) -> None:
        give(twin, "user:ann", 5, **lasting(twin, seconds=10))
        twin.wait(seconds=10)
        refused = twin.make.grant("user:ann", micro(5), expires_at=twin.now)
        assert twin.do(refused).result == "rejected"
        assert twin.figures("user:ann") == (5, 0, 0)

    def test_unused_credits_count_as_neither_given_nor_used_once_they_expired(
        self, twin: Twin
    ) -> None:
        give(twin, "user:ann", 5, **lasting(twin, seconds=10))
        use(twin, "u1", 2, pipeline_id=None)
        twin.wait(seconds=10)
        twin.do(twin.make.refresh("user:ann"))
        account = twin.account("user:ann")
        assert (account.granted, account.granted - account.balance) == (micro(2), micro(2))


class TestRefunds:
    def test_credits_return_to_the_very_grants_that_paid(self, twin: Twin) -> None:
        give(twin, "user:ann", 3)
        give(twin, "user:ann", 2, priority=1, **lasting(twin, days=3))
        use(twin, "u1", 4, pipeline_id=None)
        answer = twin.do(twin.refund())
        assert (answer.result, answer.facts["amount"]) == ("refunded", 4)
        assert left(twin, "user:ann") == {2: 2, 1: 3}
        first = twin.account("user:ann").grants[0]
        assert (first.priority, first.expires_at) == (1, twin.now + timedelta(days=3))
        assert amounts(twin.entries[-1:]) == [("refund", 4)]

    def test_a_charge_is_refunded_once_though_asked_twice_and_at_the_same_time(
        self, twin: Twin
    ) -> None:
        give(twin, "user:ann", 5)
        use(twin, "u1", 4, pipeline_id=None)
        answers = twin.submit(twin.refund(), twin.refund())
        assert [a.result for a in answers if a] == ["refunded", "duplicate"]
        assert twin.do(twin.refund()).result == "duplicate"
        assert twin.figures("user:ann") == (5, 0, 0)

    def test_what_came_from_a_grant_that_expired_since_expires_at_once(self, twin: Twin) -> None:
        give(twin, "user:ann", 5, **lasting(twin, seconds=10))
        give(twin, "user:ann", 5)
        use(twin, "u1", 7, pipeline_id=None)
        twin.wait(seconds=10)
        twin.do(twin.refund())
        assert amounts(twin.entries[-2:]) == [("refund", 7), ("expiry", -5)]
        assert left(twin, "user:ann") == {2: 5}

    def test_expired_credits_that_return_pay_no_debt(self, twin: Twin) -> None:
        give(twin, "user:ann", 5, **lasting(twin, seconds=10))
        use(twin, "u1", 5, pipeline_id=None)
        twin.wait(seconds=10)
        use(twin, "u2", 3, pipeline_id=None)
        twin.do(twin.refund(twin.charges()[0]))
        assert twin.figures("user:ann") == (0, 0, 3)

    def test_credits_that_return_pay_other_debt(self, twin: Twin) -> None:
        give(twin, "user:ann", 5)
        use(twin, "u1", 5, pipeline_id=None)
        use(twin, "u2", 3, pipeline_id=None)
        twin.do(twin.refund(twin.charges()[0]))
        assert kinds(twin.entries[-2:]) == [
            ("user:ann", "refund", 5, 0, 0),
            ("user:ann", "debt", -3, 0, -3),
        ]

    def test_debt_of_the_charge_goes_down_first(self, twin: Twin) -> None:
        give(twin, "user:ann", 1)
        use(twin, "u1", 5, pipeline_id=None)
        assert twin.figures("user:ann") == (0, 0, 4)
        answer = twin.do(twin.refund())
        assert (answer.facts["amount"], twin.figures("user:ann")) == (5, (1, 0, 0))
        assert kinds(twin.entries[-1:]) == [("user:ann", "refund", 1, 0, -4)]

    def test_debt_that_was_paid_since_comes_back_as_a_grant_of_its_own(self, twin: Twin) -> None:
        owe(twin, "user:ann", 4)
        give(twin, "user:ann", 3)
        twin.do(twin.refund())
        assert kinds(twin.entries[-1:]) == [("user:ann", "refund", 3, 0, -1)]
        terms = twin.entries[-1].terms
        assert terms is not None
        assert (terms.priority, terms.expires_at, terms.source) == (100, None, "refund")
        assert twin.figures("user:ann") == (3, 0, 0)

    def test_a_settled_charge_returns_to_what_is_free(self, twin: Twin) -> None:
        give(twin, "user:ann", 45)
        twin.do(twin.make.request())
        use(twin, "u1", 10)
        twin.do(twin.refund())
        assert twin.figures("user:ann") == (45, 35, 0)

    def test_a_charge_of_nothing_can_be_refunded_too(self, twin: Twin) -> None:
        use(twin, "u1", byok=True)
        assert twin.do(twin.refund()).facts["amount"] == 0
        assert kinds(twin.entries[-1:]) == [("user:ann", "refund", 0, 0, 0)]

    def test_a_refund_does_not_bring_a_balance_to_a_billion(self, twin: Twin) -> None:
        give(twin, "user:ann", 1)
        use(twin, "u1", pipeline_id=None)
        give(twin, "user:ann", 999_999_999)
        assert reason(twin.do(twin.refund())) == "amount_out_of_range"
        assert twin.figures("user:ann") == (999_999_999, 0, 0)

    def test_what_was_used_goes_down_again(self, twin: Twin) -> None:
        give(twin, "user:ann", 5)
        use(twin, "u1", 4, pipeline_id=None)
        twin.do(twin.refund())
        assert twin.account("user:ann").granted == micro(5)


class TestRevocations:
    def test_one_grant_is_revoked_as_far_as_it_is_free(self, twin: Twin) -> None:
        give(twin, "user:ann", 10, priority=1)
        give(twin, "user:ann", 20)
        give(twin, "user:ann", 5)
        twin.do(twin.make.reserve("h1", micro(12)))
        revoked = twin.do(twin.make.revoke("user:ann", 2))
        assert (revoked.result, revoked.facts["amount"]) == ("revoked", 18)
        assert amounts(twin.entries[-1:]) == [("adjustment", -18)]
        assert twin.entries[-1].reason == "slip"
        assert twin.figures("user:ann") == (17, 12, 0)
        twin.do(twin.make.release("h1"))
        assert twin.do(twin.make.revoke("user:ann", 2)).facts["amount"] == 2
        assert twin.figures("user:ann") == (15, 0, 0)
        for gone in (2, 4, 99):
            assert reason(twin.do(twin.make.revoke("user:ann", gone))) == "nothing_to_revoke"

    def test_what_is_refunded_to_a_revoked_grant_can_be_revoked_as_well(self, twin: Twin) -> None:
        give(twin, "user:ann", 10)
        twin.do(twin.make.deduct(micro(4)))
        twin.do(twin.make.revoke("user:ann", 1))
        twin.do(twin.refund())
        assert twin.figures("user:ann") == (4, 0, 0)
        twin.do(twin.make.revoke("user:ann", 1))
        assert twin.figures("user:ann") == (0, 0, 0)


class TestExactness:
    @pytest.mark.parametrize("way", ["deduct", "usage"])
    def test_10000_deductions_of_a_tenth_leave_exactly_1000_less(
        self, twin: Twin, way: str
    ) -> None:
        twin.apply_prices({"phases": {"call": {"per": "flat", "credits": 0.1}}})
        give(twin, "user:ann", 1500.3)
        for batch in range(20):
            if way == "deduct":
                commands = [twin.make.deduct(micro(0.1)) for _ in range(500)]
                twin.submit(*commands)
            else:
                told = [
                    twin.make.usage(f"u{batch}-{n}", twin.now, phase="call", pipeline_id=None)
                    for n in range(500)
                ]
                twin.submit(*told)
        assert twin.account("user:ann").balance == 500_300_000
        assert sum(e.amount for e in twin.entries if e.kind == "usage") == -1_000_000_000

    def test_set_balance_leaves_the_target_whatever_it_is_made_of(self, twin: Twin) -> None:
        give(twin, "user:ann", 5, **lasting(twin, days=3))
        give(twin, "user:ann", 5, priority=1)
        twin.do(twin.make.set_balance("user:ann", 3))
        assert left(twin, "user:ann") == {1: 3}
        twin.do(twin.make.set_balance("user:ann", 10))
        assert left(twin, "user:ann") == {1: 3, 4: 7}
