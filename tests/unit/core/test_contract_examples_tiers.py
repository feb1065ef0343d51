"""The contract's tiers, their periods and renewals, and quotas."""

from datetime import timedelta

import pytest
from tests.unit.core.saying import amounts, give, kinds, left, micro, owe, reason, use
from tests.unit.core.twin import DEFAULT_BOOK, Twin

from faregate.ledger.core import Command, Rules

DAYS = timedelta(days=1)
TABLE = [
    ("free", 0, None),
    ("trial", 5.00, 700),
    ("starter", 20.00, 2_000),
    ("professional", 60.00, 10_000),
    ("platform", 0, 10_000),
    ("enterprise", 999_999.99, None),
]
MODELS = {**DEFAULT_BOOK, "models": {"by-tier": {"kind": "tier_rate"}}}


def put_on(twin: Twin, tier: str, subject: str = "user:ann", *, now: bool = False) -> str:
    return twin.do(twin.make.tier(subject, tier, now=now)).result


def refresh(twin: Twin, subject: str = "user:ann") -> None:
    twin.submit(twin.make.refresh(subject))


class TestTheTable:
    @pytest.mark.parametrize(("tier", "included", "_calls"), TABLE)
    def test_a_tier_includes_its_credits(
        self, twin: Twin, tier: str, included: float, _calls: int | None
    ) -> None:
        put_on(twin, tier)
        assert twin.figures("user:ann") == (included, 0, 0)
        assert twin.account("user:ann").tier == tier

    @pytest.mark.parametrize(("tier", "_included", "calls"), TABLE)
    def test_a_tier_has_its_quota(
        self, twin: Twin, tier: str, _included: float, calls: int | None
    ) -> None:
        put_on(twin, tier)
        count = calls or 1000
        for start in range(0, count, 1000):
            calls_made = [twin.make.deduct(0, counts=True) for _ in range(min(1000, count - start))]
            answers = twin.submit(*calls_made)
            assert {a.result for a in answers if a} == {"charged"}
        one_more = twin.do(twin.make.deduct(0, counts=True))
        assert one_more.result == ("charged" if calls is None else "refused")

    @pytest.mark.parametrize(
        ("tier", "rate"),
        [("trial", 0.001), ("starter", 0.002), ("professional", 0.005), ("enterprise", 0.010)],
    )
    def test_a_tier_has_its_rate_for_1000_tokens(self, twin: Twin, tier: str, rate: float) -> None:
        twin.apply_prices(MODELS)
        put_on(twin, tier)
        use(twin, "u1", model="by-tier", tokens=(400, 600), pipeline_id=None)
        assert (twin.entries[-1].amount, twin.entries[-1].tier) == (-micro(rate), tier)

    def test_an_unknown_tier_is_refused(self, twin: Twin) -> None:
        assert reason(twin.do(twin.make.tier("user:ann", "gold"))) == "unknown_tier"

    def test_without_a_price_book_there_is_no_tier(self) -> None:
        twin = Twin()
        assert reason(twin.do(twin.make.tier("user:ann", "starter"))) == "unknown_tier"


class TestRenewal:
    def test_the_end_of_the_period_replaces_what_is_left_and_leaves_purchases(
        self, twin: Twin
    ) -> None:
        put_on(twin, "starter")
        give(twin, "user:ann", 7)
        use(twin, "u1", 5, pipeline_id=None)
        twin.wait(days=30, microseconds=-1)
        refresh(twin)
        assert left(twin, "user:ann") == {1: 15, 2: 7}
        twin.wait(microseconds=1)
        refresh(twin)
        assert left(twin, "user:ann") == {4: 20, 2: 7}
        assert amounts(twin.entries[-2:]) == [("purchase", 20), ("expiry", -15)]
        assert [e.reason for e in twin.entries[-2:]] == ["renewal", "expired"]

    def test_it_happens_once_whoever_comes_first(self, twin: Twin) -> None:
        put_on(twin, "starter")
        twin.wait(days=30)
        twin.submit(
            twin.make.refresh("user:ann"),
            twin.make.deduct(micro(1)),
            twin.make.refresh("user:ann"),
            twin.make.request(items=2),
        )
        assert [e.reason for e in twin.entries].count("renewal") == 1
        assert twin.figures("user:ann") == (19, 1, 0)

    @pytest.mark.parametrize("who", ["request", "usage", "deduct", "grant", "set", "refund"])
    def test_every_decision_brings_it_about(self, twin: Twin, who: str) -> None:
        put_on(twin, "starter")
        use(twin, "u0", pipeline_id=None)
        twin.wait(days=30)
        asked: dict[str, Command] = {
            "request": twin.make.request(items=2),
            "usage": twin.make.usage("u1", twin.now, pipeline_id=None),
            "deduct": twin.make.deduct(1),
            "grant": twin.make.grant("user:ann", 1),
            "set": twin.make.set_balance("user:ann", 50),
            "refund": twin.refund(),
        }
        twin.do(asked[who])
        assert [e.reason for e in twin.entries].count("renewal") == 1

    def test_after_a_long_time_every_period_is_caught_up_with_exactly(self, twin: Twin) -> None:
        put_on(twin, "starter")
        began = twin.now
        twin.wait(days=100)
        refresh(twin)
        assert amounts(twin.entries[1:]) == [
            ("purchase", 20),
            ("expiry", -20),
            ("expiry", -20),
            ("purchase", 20),
            ("expiry", -20),
            ("purchase", 20),
        ]
        assert twin.figures("user:ann") == (20, 0, 0)
        plan = twin.account("user:ann").plan
        assert plan.period_start == began + 90 * DAYS
        (grant,) = twin.account("user:ann").grants
        assert (grant.number, grant.expires_at) == (plan.tier_grant, began + 120 * DAYS)

    def test_each_renewal_pays_debt_first_those_that_were_missed_too(self, twin: Twin) -> None:
        put_on(twin, "starter")
        use(twin, "u1", 65, pipeline_id=None)
        assert twin.figures("user:ann") == (0, 0, 45)
        twin.wait(days=60)
        refresh(twin)
        assert twin.figures("user:ann") == (0, 0, 5)
        twin.wait(days=30)
        refresh(twin)
        assert twin.figures("user:ann") == (15, 0, 0)

    @pytest.mark.parametrize("owed", [0, 5, 65, 200])
    def test_catching_up_comes_to_the_same_as_being_on_time(self, owed: int) -> None:
        ends = []
        for days in ([7] * 15, [105]):
            twin = Twin()
            twin.apply_prices(DEFAULT_BOOK)
            put_on(twin, "starter")
            use(twin, "u1", owed, pipeline_id=None)
            for gap in days:
                twin.wait(days=gap)
                refresh(twin)
            account = twin.account("user:ann")
            terms = [(g.remaining, g.expires_at) for g in account.grants]
            ends.append((account.debt, terms, account.plan.period_start, account.granted))
        assert ends[0] == ends[1]

    @pytest.mark.parametrize("late", [False, True])
    def test_a_call_is_priced_by_the_period_that_began(self, twin: Twin, *, late: bool) -> None:
        put_on(twin, "professional")
        put_on(twin, "starter")
        use(twin, "u1", model="by-tier", tokens=(1000, 0), pipeline_id=None)
        twin.wait(days=30)
        assert twin.submit(*twin.late_charges()) == [None], "no trace of the renewal"
        assert twin.account("user:ann").tier == "professional"
        twin.apply_prices(MODELS)
        now = twin.make.usage("u2", twin.now, model="by-tier", tokens=(1000, 0), pipeline_id=None)
        twin.submit(*twin.late_charges() if late else [now])
        assert (twin.entries[-1].amount, twin.entries[-1].tier) == (-micro(0.002), "starter")

    def test_what_a_hold_pinned_of_the_last_period_settles(self, twin: Twin) -> None:
        put_on(twin, "starter")
        twin.wait(days=30, seconds=-60)
        twin.do(twin.make.request(items=6))
        twin.wait(seconds=60)
        use(twin, "u1", 10)
        assert twin.figures("user:ann") == (25, 5, 0)
        twin.do(twin.make.finished(usage_events=1))
        assert twin.figures("user:ann") == (20, 0, 0)
        assert amounts(twin.entries[-2:]) == [("release", 0), ("expiry", -5)]

    def test_the_trial_comes_once(self, twin: Twin) -> None:
        put_on(twin, "trial")
        twin.wait(days=65)
        refresh(twin)
        assert twin.figures("user:ann") == (0, 0, 0)
        plan = twin.account("user:ann").plan
        assert (plan.tier, plan.calls) == ("trial", 0)
        assert plan.period_start == twin.now - 5 * DAYS

    def test_an_org_can_be_on_a_tier(self, twin: Twin) -> None:
        put_on(twin, "professional", "org:acme")
        twin.wait(days=31)
        assert twin.do(twin.make.request(org="acme")).facts["payer"] == "org:acme"
        assert twin.figures("org:acme") == (60, 45, 0)

    def test_100_percent_of_a_threshold_is_what_the_new_period_gives(self, twin: Twin) -> None:
        """What is replaced does not count: else the replacing itself would seem a fall."""
        twin.do(twin.make.alerts("user:ann", None, 80))
        put_on(twin, "starter")
        give(twin, "user:ann", 10)
        twin.wait(days=30)
        refresh(twin)
        assert twin.account("user:ann").plan.top == micro(30)
        assert all(e.alert is None for e in twin.entries)
        put_on(twin, "professional")
        assert twin.account("user:ann").plan.top == micro(70)
        assert all(e.alert is None for e in twin.entries)


class TestChangingTier:
    def test_up_is_at_once_with_a_new_period_and_the_old_credits_gone(self, twin: Twin) -> None:
        put_on(twin, "starter")
        give(twin, "user:ann", 3)
        twin.wait(days=10)
        assert put_on(twin, "professional") == "changed"
        assert amounts(twin.entries[-2:]) == [("purchase", 60), ("expiry", -20)]
        assert twin.entries[-1].reason == twin.entries[-2].reason == "tier_change"
        assert twin.figures("user:ann") == (63, 0, 0)
        assert twin.account("user:ann").plan.period_start == twin.now

    def test_down_is_from_the_next_period_on(self, twin: Twin) -> None:
        put_on(twin, "professional")
        twin.wait(days=10)
        assert put_on(twin, "starter") == "scheduled"
        assert (twin.account("user:ann").tier, twin.figures("user:ann")[0]) == ("professional", 60)
        twin.wait(days=20)
        refresh(twin)
        assert (twin.account("user:ann").tier, twin.figures("user:ann")[0]) == ("starter", 20)
        assert twin.account("user:ann").plan.next_tier is None

    def test_down_is_at_once_where_that_is_said(self, twin: Twin) -> None:
        put_on(twin, "professional")
        assert put_on(twin, "starter", now=True) == "changed"
        assert twin.figures("user:ann") == (20, 0, 0)

    def test_a_change_that_waits_can_be_taken_back(self, twin: Twin) -> None:
        put_on(twin, "professional")
        put_on(twin, "starter")
        assert put_on(twin, "professional") == "kept"
        assert put_on(twin, "professional") == "unchanged"
        twin.wait(days=30)
        refresh(twin)
        assert twin.account("user:ann").tier == "professional"

    def test_up_forgets_a_change_that_waits(self, twin: Twin) -> None:
        put_on(twin, "professional")
        put_on(twin, "starter")
        put_on(twin, "enterprise")
        twin.wait(days=30)
        refresh(twin)
        assert twin.account("user:ann").tier == "enterprise"

    def test_from_the_trial_every_tier_is_up(self, twin: Twin) -> None:
        """Its credits came once: the next period gives none that could be lost."""
        put_on(twin, "trial")
        assert put_on(twin, "platform") == "changed"

    def test_without_a_running_period_there_is_nothing_to_wait_for(self, twin: Twin) -> None:
        tiers = {"free": {"credits": 3}, "platform": {"credits": 0}}
        twin.apply_prices({**DEFAULT_BOOK, "tiers": tiers})
        assert put_on(twin, "platform") == "changed"

    def test_to_a_tier_that_comes_once_its_credits_come_with_the_change(self, twin: Twin) -> None:
        put_on(twin, "starter")
        put_on(twin, "trial")
        twin.wait(days=65)
        refresh(twin)
        assert [e.reason for e in twin.entries if e.kind == "purchase"] == ["tier_change"] * 2
        assert twin.figures("user:ann") == (0, 0, 0)
        assert twin.account("user:ann").plan.period_start == twin.now - 5 * DAYS

    def test_to_a_tier_without_credits_what_is_left_still_goes(self, twin: Twin) -> None:
        put_on(twin, "starter")
        put_on(twin, "platform", now=True)
        assert amounts(twin.entries[-1:]) == [("expiry", -20)]

    def test_what_a_hold_pinned_of_the_old_tier_settles(self, twin: Twin) -> None:
        put_on(twin, "starter")
        twin.do(twin.make.request(items=6))
        put_on(twin, "professional")
        use(twin, "u1", 15)
        assert twin.figures("user:ann") == (60, 0, 0)

    def test_a_tier_pays_debt_at_once(self, twin: Twin) -> None:
        owe(twin, "user:ann", 4)
        put_on(twin, "starter")
        assert kinds(twin.entries[-2:]) == [
            ("user:ann", "purchase", 20, 0, 0),
            ("user:ann", "debt", -4, 0, -4),
        ]

    def test_a_tier_that_the_book_has_no_more_gives_nothing(self, twin: Twin) -> None:
        put_on(twin, "starter")
        twin.apply_prices({**DEFAULT_BOOK, "tiers": {"trial": {"credits": 5}}})
        twin.wait(days=30)
        refresh(twin)
        assert twin.figures("user:ann") == (0, 0, 0)


class TestQuotas:
    def test_700_calls_are_allowed_and_the_701st_is_refused_with_the_reset_time(self) -> None:
        twin = Twin(Rules(provisioning="auto"))
        twin.apply_prices(DEFAULT_BOOK)
        began = twin.now
        for start in range(0, 700, 100):
            calls = [twin.make.deduct(0, counts=True) for _ in range(100)]
            assert {a.result for a in twin.submit(*calls) if a} == {"charged"}, start
        refused = twin.do(twin.make.deduct(0, counts=True))
        assert (reason(refused), refused.facts["status"]) == ("quota_exceeded", 429)
        assert refused.facts["calls"] == 700
        assert refused.facts["resets_at"] == began + 30 * DAYS
        twin.wait(days=30, microseconds=-1)
        assert reason(twin.do(twin.make.deduct(0, counts=True))) == "quota_exceeded"
        twin.wait(microseconds=1)
        assert twin.do(twin.make.deduct(0, counts=True)).result == "charged"
        assert twin.account("user:ann").plan.calls == 1

    def test_of_1000_callers_at_once_as_many_as_allowed_come_through(self, twin: Twin) -> None:
        twin.do(twin.make.quota("user:ann", 700))
        answers = twin.submit(*[twin.make.deduct(0, counts=True) for _ in range(1000)])
        assert [a.result for a in answers if a] == ["charged"] * 700 + ["refused"] * 300
        assert sum(a.calls for a in answers if a) == 700

    def test_a_request_is_a_call_unless_an_org_is_named(self, twin: Twin) -> None:
        twin.do(twin.make.quota("user:ann", 1))
        assert twin.do(twin.make.request("p1", pipeline="nlp")).calls == 1
        answer = twin.do(twin.make.request("p2", pipeline="nlp"))
        assert (reason(answer), answer.facts["status"]) == ("quota_exceeded", 429)
        assert twin.do(twin.make.request("p3", pipeline="nlp", org="acme")).calls == 0

    def test_a_request_that_is_denied_is_no_call(self, twin: Twin) -> None:
        twin.do(twin.make.request())
        assert twin.account("user:ann").plan.calls == 0

    def test_calls_with_the_callers_own_key_cost_nothing_and_count(self, twin: Twin) -> None:
        answer = use(twin, "u1", model="any", byok=True, pipeline_id=None)
        assert (twin.entries[-1].amount, answer.calls) == (0, 1)
        assert twin.account("user:ann").plan.calls == 1

    def test_calls_count_whoever_pays_and_beyond_the_quota_too(self, twin: Twin) -> None:
        twin.do(twin.make.quota("user:ann", 1))
        for n in range(3):
            use(twin, f"u{n}", model="any", byok=True, pipeline_id=None, org="acme")
        assert twin.account("user:ann").plan.calls == 3

    def test_a_phase_is_no_call(self, twin: Twin) -> None:
        assert use(twin, "u1", pipeline_id=None).calls == 0

    def test_usage_of_a_pipeline_that_its_request_counted_does_not_count_twice(
        self, twin: Twin
    ) -> None:
        give(twin, "user:ann", 45)
        twin.do(twin.make.request())
        assert use(twin, "u1", model="any", byok=True).calls == 0
        assert twin.account("user:ann").plan.calls == 1

    def test_an_orgs_pipeline_counts_by_its_calls(self, twin: Twin) -> None:
        give(twin, "org:acme", 45)
        twin.do(twin.make.request(org="acme"))
        assert use(twin, "u1", model="any", byok=True, org="acme").calls == 1

    def test_naming_somebody_elses_free_pipeline_does_not_make_calls_free(self, twin: Twin) -> None:
        twin.do(twin.make.request(pipeline="nlp"))
        assert use(twin, "u1", model="any", byok=True, user="bob").calls == 1

    def test_the_period_begins_with_the_first_call_where_no_tier_began_one(
        self, twin: Twin
    ) -> None:
        twin.do(twin.make.quota("user:ann", 1))
        twin.wait(days=3)
        twin.do(twin.make.deduct(0, counts=True))
        twin.wait(days=3)
        refused = twin.do(twin.make.deduct(0, counts=True))
        assert refused.facts["resets_at"] == twin.now + 27 * DAYS

    def test_a_quota_of_ones_own_goes_before_the_tiers(self, twin: Twin) -> None:
        put_on(twin, "trial")
        twin.do(twin.make.quota("user:ann", 0))
        assert reason(twin.do(twin.make.deduct(0, counts=True))) == "quota_exceeded"
        twin.do(twin.make.quota("user:ann", None))
        assert twin.do(twin.make.deduct(0, counts=True)).result == "charged"

    def test_a_renewal_counts_anew(self, twin: Twin) -> None:
        put_on(twin, "starter")
        use(twin, "u1", model="any", byok=True, pipeline_id=None)
        twin.wait(days=30)
        use(twin, "u2", model="any", byok=True, pipeline_id=None)
        assert twin.account("user:ann").plan.calls == 1
