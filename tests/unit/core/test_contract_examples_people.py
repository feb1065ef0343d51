"""The contract's provisioning: who is welcomed, when, with how much; and alerts."""

from collections import Counter
from typing import Any

import pytest
from tests.unit.core.saying import amounts, give, left, micro, owe, reason, use
from tests.unit.core.twin import DEFAULT_BOOK, Twin

from faregate.ledger.core import Rules, Welcome
from faregate.ledger.core.provisioning import arm_of


def auto(**welcome: Any) -> Twin:
    twin = Twin(Rules(provisioning="auto", welcome=Welcome(**welcome)))
    twin.apply_prices(DEFAULT_BOOK)
    return twin


def given(twin: Twin) -> list[tuple[float, str | None, str | None, str | None]]:
    """Each welcome grant: amount, source, layer, arm."""
    return [
        (e.amount / 1_000_000, e.terms.source, e.terms.layer, e.terms.arm)
        for e in twin.entries
        if e.reason == "welcome" and e.terms
    ]


class TestLayers:
    def test_registering_is_eager_and_grants_once(self) -> None:
        twin = auto()
        answers = twin.submit(twin.make.register(), twin.make.register())
        assert [a.result for a in answers if a] == ["provisioned", "registered"]
        assert given(twin) == [(5, "welcome", "eager", None)]
        assert twin.account("user:ann").tier == "trial"

    def test_a_decision_is_lazy(self) -> None:
        twin = auto()
        twin.do(twin.make.request(items=2))
        assert given(twin) == [(5, "welcome", "lazy", None)]
        assert twin.do(twin.make.register()).result == "registered"

    def test_a_read_is_lazy(self) -> None:
        twin = auto()
        read = twin.make.refresh("user:ann", welcome=True)
        assert twin.do(read).result == "refreshed"
        assert given(twin) == [(5, "welcome", "lazy", None)]
        again = twin.make.refresh("user:ann", welcome=True)
        assert twin.submit(again) == [None]

    def test_the_sweeper_welcomes_nobody(self) -> None:
        twin = auto()
        assert twin.submit(twin.make.refresh("user:ann")) == [None]

    @pytest.mark.parametrize("way", ["usage", "deduct"])
    def test_a_deduction_is_the_last_resort(self, way: str) -> None:
        twin = auto()
        if way == "usage":
            use(twin, "u1", pipeline_id=None)
        else:
            twin.do(twin.make.deduct(micro(1)))
        assert given(twin) == [(5, "welcome", "last_resort", None)]
        assert twin.figures("user:ann") == (4, 0, 0)

    def test_100_first_requests_at_once_grant_once(self) -> None:
        twin = auto()
        twin.submit(*[twin.make.request(f"p{n}", items=2) for n in range(100)])
        assert len(given(twin)) == 1

    def test_manual_welcomes_nobody(self) -> None:
        twin = Twin()
        assert twin.do(twin.make.register(verified=True)).facts["welcome"] == "none"
        assert twin.submit(twin.make.refresh("user:ann", welcome=True)) == [None]
        assert twin.entries == []

    def test_an_amount_of_nothing_is_off(self) -> None:
        twin = Twin(Rules(provisioning="auto", welcome_micro=0))
        assert twin.do(twin.make.register()).result == "registered"
        assert twin.account("user:ann").tier == "free"

    def test_the_welcome_pays_no_more_than_it_is_and_debt_first(self) -> None:
        twin = auto(verified_only=True)
        owe(twin, "user:ann", 3)
        twin.do(twin.make.register(verified=True))
        assert amounts(twin.entries[-2:]) == [("purchase", 5), ("debt", -3)]

    @pytest.mark.parametrize("tier", ["starter", "platform"])
    def test_a_tier_that_somebody_chose_is_not_taken_away(self, tier: str) -> None:
        twin = auto()
        twin.do(twin.make.tier("user:ann", tier))
        twin.do(twin.make.register())
        assert (twin.account("user:ann").tier, given(twin)) == (tier, [])

    def test_the_trial_prices_the_very_call_that_brings_the_welcome(self) -> None:
        twin = auto()
        twin.apply_prices({**DEFAULT_BOOK, "models": {"by-tier": {"kind": "tier_rate"}}})
        use(twin, "u1", model="by-tier", tokens=(1000, 0), pipeline_id=None)
        assert (twin.entries[-1].amount, twin.entries[-1].tier) == (-1000, "trial")


class TestVerification:
    def test_nothing_before_the_address_is_verified_and_then_once(self) -> None:
        twin = auto(verified_only=True)
        assert twin.do(twin.make.register()).facts["welcome"] == "pending"
        assert reason(twin.do(twin.make.request(items=2))) == "insufficient_credits"
        assert twin.do(twin.make.register(verified=True)).result == "provisioned"
        assert given(twin) == [(5, "welcome", "eager", None)]
        assert twin.do(twin.make.register(verified=True)).result == "registered"

    def test_what_was_bought_in_the_meantime_does_not_take_the_welcome_away(self) -> None:
        twin = auto(verified_only=True)
        twin.do(twin.make.register())
        give(twin, "user:ann", 1)
        twin.do(twin.make.register(verified=True))
        assert twin.figures("user:ann") == (6, 0, 0)

    def test_a_tier_that_was_chosen_in_the_meantime_stays(self) -> None:
        twin = auto(verified_only=True)
        twin.do(twin.make.register())
        twin.do(twin.make.tier("user:ann", "starter"))
        period = twin.account("user:ann").plan.period_start
        twin.wait(days=1)
        twin.do(twin.make.register(verified=True))
        plan = twin.account("user:ann").plan
        assert (plan.tier, plan.period_start) == ("starter", period)
        assert twin.figures("user:ann") == (25, 0, 0)

    def test_calls_that_were_made_while_waiting_still_count(self) -> None:
        twin = auto(verified_only=True)
        use(twin, "u1", model="any", byok=True, pipeline_id=None)
        first = twin.now
        twin.wait(days=3)
        twin.do(twin.make.register(verified=True))
        plan = twin.account("user:ann").plan
        assert (plan.calls, plan.period_start) == (1, first)

    def test_an_account_that_was_there_before_does_not_wait(self) -> None:
        twin = auto(verified_only=True)
        twin.do(twin.make.set_balance("user:ann", 0))
        assert twin.do(twin.make.register(verified=True)).facts["welcome"] == "none"

    def test_an_unverified_reader_is_left_as_they_are(self) -> None:
        twin = auto(verified_only=True)
        assert twin.submit(twin.make.refresh("user:ann", welcome=True)) == [None]
        assert twin.account("user:ann").plan.welcome == ""


class TestAmounts:
    def test_the_referral_source_can_say_how_much(self) -> None:
        twin = auto(by_referral=(("partner", micro(8)),))
        twin.do(twin.make.register("ann", referral="partner"))
        twin.do(twin.make.register("bob", referral="elsewhere"))
        assert given(twin) == [
            (8, "referral:partner", "eager", None),
            (5, "referral:elsewhere", "eager", None),
        ]

    def test_no_person_is_named_in_what_stays_for_ever(self) -> None:
        twin = auto()
        twin.do(twin.make.register("ann", referral="user:bob"))
        twin.do(twin.make.register("bob", referral="ann@example.org"))
        assert [g[1] for g in given(twin)] == ["referral:user", "referral:other"]

    def test_arms_are_the_same_for_the_same_user_and_evenly_spread(self) -> None:
        arms = (("more", micro(9)), ("less", micro(3)))
        chosen = Counter(arm_of(f"user:{n}", arms)[0] for n in range(1000))
        assert abs(chosen["more"] - 500) < 60
        amount = {"more": 9, "less": 3}
        for user in ("ann", "bob", "cat"):
            twins = [auto(arms=arms), auto(arms=arms)]
            for twin in twins:
                twin.do(twin.make.register(user))
            arm = arm_of(f"user:{user}", arms)[0]
            assert given(twins[0]) == given(twins[1]) == [(amount[arm], "welcome", "eager", arm)]

    def test_a_referral_goes_before_an_arm(self) -> None:
        twin = auto(arms=(("more", micro(9)),), by_referral=(("partner", micro(8)),))
        twin.do(twin.make.register(referral="partner"))
        assert given(twin) == [(8, "referral:partner", "eager", None)]

    def test_an_arm_that_gives_nothing_is_a_welcome_too(self) -> None:
        twin = auto(arms=(("none", 0),))
        assert twin.do(twin.make.register()).result == "provisioned"
        assert twin.do(twin.make.register()).result == "registered"
        twin.do(twin.make.tier("user:ann", "free", now=True))
        assert twin.do(twin.make.register()).result == "registered"
        assert twin.entries == []

    def test_unused_trial_credits_expire(self) -> None:
        twin = auto(days=7)
        twin.do(twin.make.register())
        twin.wait(days=7)
        twin.do(twin.make.refresh("user:ann"))
        assert twin.figures("user:ann") == (0, 0, 0)


class TestReferrals:
    def sent(self, twin: Twin, referrer: str, user: str = "ann") -> object:
        return twin.do(twin.make.register(user, referrer=referrer)).facts["referral_bonus"]

    def test_who_sent_somebody_gets_a_bonus_once(self) -> None:
        twin = auto(referral_bonus=micro(2))
        twin.do(twin.make.register("bob"))
        assert self.sent(twin, "user:bob") == 2
        assert twin.figures("user:bob") == (7, 0, 0)
        assert self.sent(twin, "user:bob") == 0
        assert twin.entries[-1].kind == "bonus"

    def test_also_when_a_decision_came_before_the_registration(self) -> None:
        twin = auto(referral_bonus=micro(2))
        twin.do(twin.make.register("bob"))
        twin.do(twin.make.request(items=2))
        assert self.sent(twin, "user:bob") == 2

    @pytest.mark.parametrize("referrer", ["user:ann", "user:cat"])
    def test_nobody_is_thanked_for_themselves_or_without_being_here(self, referrer: str) -> None:
        twin = auto(referral_bonus=micro(2))
        assert self.sent(twin, referrer) == 0
        assert twin.figures("user:cat") == (0, 0, 0)

    def test_the_first_registration_decides(self) -> None:
        twin = auto(referral_bonus=micro(2))
        twin.do(twin.make.register("bob"))
        twin.do(twin.make.register("ann"))
        assert self.sent(twin, "user:bob") == 0

    def test_the_bonus_pays_debt_first_and_finds_the_account_up_to_date(self) -> None:
        twin = auto(referral_bonus=micro(2))
        twin.do(twin.make.tier("user:bob", "starter"))
        twin.wait(days=30)
        assert self.sent(twin, "user:bob") == 2
        assert [e.reason for e in twin.entries if e.subject == "user:bob"][-3:] == [
            "renewal",
            "expired",
            "referral",
        ]
        owe_all = twin.make.usage("u1", twin.now, user="bob", pipeline_id=None, units=30)
        twin.do(owe_all)
        assert self.sent(twin, "user:bob", "cat") == 2
        assert twin.figures("user:bob") == (0, 0, 6)


class TestMilestones:
    PARTS = (("email_verified", micro(1)), ("first_pipeline", micro(3)))

    def test_parts_of_the_welcome_wait_and_are_released_once(self) -> None:
        twin = auto(milestones=self.PARTS)
        twin.do(twin.make.register())
        assert given(twin) == [(1, "welcome", "eager", None)]
        assert twin.do(twin.make.unlock("first_pipeline")).facts["amount"] == 3
        assert twin.do(twin.make.unlock("first_pipeline")).result == "unchanged"
        assert twin.figures("user:ann") == (4, 0, 0)
        assert twin.entries[-1].reason == "milestone:first_pipeline"

    def test_events_reach_them_too(self) -> None:
        twin = auto(milestones=self.PARTS)
        assert twin.do(twin.make.register()).facts["released"] == 0
        assert twin.do(twin.make.register(verified=True)).facts["released"] == 1
        twin.do(twin.make.request(pipeline="nlp"))
        twin.do(twin.make.finished())
        assert twin.figures("user:ann") == (5, 0, 0)

    @pytest.mark.parametrize(
        "told", [{"status": "failed"}, {"pipeline_id": "unheard-of"}, {"user": "bob"}]
    )
    def test_only_a_pipeline_of_ones_own_that_succeeded_counts(self, told: dict[str, Any]) -> None:
        twin = auto(milestones=self.PARTS)
        twin.submit(*[twin.make.register(user) for user in ("ann", "bob")])
        twin.do(twin.make.request(pipeline="nlp"))
        twin.do(twin.make.finished(**told))
        assert twin.figures("user:ann") == twin.figures("user:bob") == (1, 0, 0)

    def test_what_was_reached_before_the_welcome_comes_with_it(self) -> None:
        twin = auto(milestones=self.PARTS, verified_only=True)
        twin.do(twin.make.request(pipeline="nlp"))
        twin.do(twin.make.finished())
        assert twin.entries == []
        twin.do(twin.make.register(verified=True))
        assert amounts(twin.entries) == [("purchase", 4), ("bonus", 1)]

    def test_parts_expire_as_the_welcome_does(self) -> None:
        twin = auto(milestones=self.PARTS, days=7)
        twin.do(twin.make.register())
        twin.wait(days=6)
        twin.do(twin.make.unlock("first_pipeline"))
        twin.wait(days=1)
        twin.do(twin.make.refresh("user:ann"))
        assert left(twin, "user:ann") == {2: 3}

    def test_what_does_not_wait_is_refused(self) -> None:
        twin = auto(milestones=self.PARTS)
        assert reason(twin.do(twin.make.unlock("first_pipeline"))) == "not_provisioned"
        twin.do(twin.make.register())
        assert reason(twin.do(twin.make.unlock("never"))) == "unknown_milestone"

    def test_who_had_the_whole_amount_has_nothing_to_release(self) -> None:
        before, now = auto(), Rules(provisioning="auto", welcome=Welcome(milestones=self.PARTS))
        before.do(before.make.register())
        before.rules = before.state.rules = before.model.money.rules = now
        assert before.do(before.make.unlock("first_pipeline")).result == "unchanged"
        assert before.do(before.make.register(verified=True)).facts["released"] == 0
        assert before.figures("user:ann") == (5, 0, 0)
