"""The contract's holds, and the usage that settles against them."""

from datetime import timedelta
from typing import Any

import pytest
from tests.unit.core.model_parts import Answer
from tests.unit.core.saying import give, kinds, owe, reason, use
from tests.unit.core.twin import Twin


class TestHolds:
    def test_a_live_pipeline_is_answered_with_the_same_hold(self, twin: Twin) -> None:
        give(twin, "user:ann", 100)
        first = twin.do(twin.make.request(event="one"))
        twin.wait(seconds=60)
        again = twin.do(twin.make.request(event="two"))
        assert (again.result, again.facts) == ("initiated", first.facts)
        assert (first.calls, again.calls) == (1, 0)
        assert twin.figures("user:ann") == (100, 45, 0)

    def test_a_live_pipeline_is_not_given_to_somebody_else(self, twin: Twin) -> None:
        give(twin, "user:ann", 100)
        twin.do(twin.make.request())
        assert reason(twin.do(twin.make.request(user="bob"))) == "pipeline_conflict"
        assert reason(twin.do(twin.make.request(org="acme"))) == "pipeline_conflict"

    def test_a_hold_expires_at_its_ttl_and_not_before(self, twin: Twin) -> None:
        give(twin, "user:ann", 45)
        twin.do(twin.make.request())
        twin.wait(seconds=3600, microseconds=-1)
        early = twin.due_sweeps(due_only=False)
        assert twin.submit(*early) == [None]
        twin.wait(microseconds=1)
        assert twin.do(early[0]) == Answer("closed", {"reason": "expired", "released": 45})
        assert twin.figures("user:ann") == (45, 0, 0)
        assert twin.entries[-1].reason == "expired"

    def test_progress_extends_a_hold_by_a_whole_ttl(self, twin: Twin) -> None:
        give(twin, "user:ann", 45)
        twin.do(twin.make.request())
        twin.wait(seconds=3599)
        twin.do(twin.make.completed("spellcheck"))
        twin.wait(seconds=3599)
        assert twin.due_sweeps() == []
        twin.wait(seconds=1)
        assert len(twin.due_sweeps()) == 1

    def test_progress_does_not_bring_back_a_hold_whose_time_is_over(self, twin: Twin) -> None:
        give(twin, "user:ann", 45)
        twin.do(twin.make.request())
        twin.wait(seconds=3600)
        twin.do(twin.make.completed("spellcheck"))
        assert twin.figures("user:ann") == (45, 0, 0)

    def test_an_overdue_hold_is_given_back_before_the_next_decision(self, twin: Twin) -> None:
        """Whether or not the sweeper has come by."""
        give(twin, "user:ann", 45)
        twin.do(twin.make.request())
        twin.wait(seconds=3600)
        answer = twin.do(twin.make.request(event="again"))
        assert answer.facts["hold"] == 1
        assert twin.figures("user:ann") == (45, 45, 0)

    def test_finished_closes_once_the_announced_usage_has_settled(self, twin: Twin) -> None:
        give(twin, "user:ann", 45)
        twin.do(twin.make.request())
        use(twin, "u1", 10)
        twin.do(twin.make.finished(usage_events=3))
        use(twin, "u2", 10)
        assert twin.figures("user:ann") == (25, 25, 0)
        use(twin, "u3", 10)
        assert twin.figures("user:ann") == (15, 0, 0)
        assert kinds(twin.entries[-2:]) == [
            ("user:ann", "usage", -10, -10, 0),
            ("user:ann", "release", 0, -15, 0),
        ]

    def test_finished_after_all_usage_closes_at_once(self, twin: Twin) -> None:
        give(twin, "user:ann", 45)
        twin.do(twin.make.request())
        use(twin, "u1", 10)
        twin.do(twin.make.finished(usage_events=1))
        assert twin.figures("user:ann") == (35, 0, 0)

    def test_finished_that_says_nothing_closes_after_the_grace(self, twin: Twin) -> None:
        give(twin, "user:ann", 45)
        twin.do(twin.make.request())
        twin.do(twin.make.finished())
        assert twin.figures("user:ann") == (45, 45, 0)
        twin.wait(seconds=29)
        use(twin, "u1", 10)
        assert twin.due_sweeps() == []
        twin.wait(seconds=1)
        assert twin.do(*twin.due_sweeps()).facts == {"reason": "finished", "released": 35}
        assert twin.figures("user:ann") == (35, 0, 0)

    def test_usage_that_never_comes_does_not_hold_beyond_the_grace(self, twin: Twin) -> None:
        give(twin, "user:ann", 45)
        twin.do(twin.make.request())
        twin.do(twin.make.finished(usage_events=2))
        use(twin, "u1", 10)
        twin.wait(seconds=30)
        twin.submit(*twin.due_sweeps())
        assert twin.figures("user:ann") == (35, 0, 0)

    def test_progress_does_not_keep_a_finished_pipeline(self, twin: Twin) -> None:
        give(twin, "user:ann", 45)
        twin.do(twin.make.request())
        twin.do(twin.make.finished())
        twin.do(twin.make.completed("spellcheck"))
        twin.wait(seconds=30)
        assert len(twin.due_sweeps()) == 1

    def test_progress_never_shortens_a_hold_though_the_clock_was_set_back(self, twin: Twin) -> None:
        give(twin, "user:ann", 45)
        until = twin.do(twin.make.request()).facts["hold_expires_at"]
        twin.wait(seconds=-10)
        twin.do(twin.make.completed("spellcheck"))
        run = twin.run("p1")
        assert run is not None
        assert run.hold is not None
        assert run.hold.expires_at == until

    def test_finishing_twice_does_not_begin_the_grace_again(self, twin: Twin) -> None:
        give(twin, "user:ann", 45)
        twin.do(twin.make.request())
        twin.do(twin.make.finished())
        twin.wait(seconds=20)
        twin.do(twin.make.finished(usage_events=1))
        twin.wait(seconds=10)
        assert len(twin.due_sweeps()) == 1

    def test_finished_after_the_ttl_finds_the_hold_expired(self, twin: Twin) -> None:
        give(twin, "user:ann", 45)
        twin.do(twin.make.request())
        twin.wait(seconds=3600)
        twin.do(twin.make.finished())
        assert twin.figures("user:ann") == (45, 0, 0)
        assert twin.entries[-1].reason == "expired"

    def test_a_finished_pipeline_can_be_started_anew(self, twin: Twin) -> None:
        """Its old hold is given back first, so that both are never held at once."""
        give(twin, "user:ann", 45)
        twin.do(twin.make.request())
        twin.do(twin.make.finished())
        answer = twin.do(twin.make.request(event="anew"))
        assert (answer.result, answer.facts["hold"]) == ("initiated", 1)
        assert kinds(twin.entries[-2:]) == [
            ("user:ann", "release", 0, -45, 0),
            ("user:ann", "hold", 0, 45, 0),
        ]

    def test_a_sweep_for_an_earlier_hold_leaves_the_new_one_alone(self, twin: Twin) -> None:
        give(twin, "user:ann", 45)
        twin.do(twin.make.request())
        twin.wait(seconds=3600)
        stale = twin.due_sweeps()
        twin.do(twin.make.request(event="again"))
        twin.wait(seconds=3600)
        assert twin.submit(*stale) == [None]
        assert twin.figures("user:ann") == (45, 45, 0)

    @pytest.mark.parametrize("command", ["completed", "finished"])
    def test_progress_in_the_name_of_somebody_else_is_refused(
        self, twin: Twin, command: str
    ) -> None:
        give(twin, "user:ann", 45)
        twin.do(twin.make.request())
        make = getattr(twin.make, command)
        assert reason(twin.do(make(user="bob"))) == "payer_mismatch"
        assert reason(twin.do(make(org="acme"))) == "payer_mismatch"


class TestUsage:
    def test_usage_settles_against_the_hold(self, twin: Twin) -> None:
        give(twin, "org:acme", 100)
        twin.do(twin.make.request(org="acme"))
        assert use(twin, "u1", 40, org="acme").result == "charged"
        assert twin.figures("org:acme") == (60, 5, 0)

    def test_the_payer_of_the_hold_pays_although_the_org_is_named(self, twin: Twin) -> None:
        give(twin, "user:ann", 45)
        twin.do(twin.make.request(org="acme"))
        give(twin, "org:acme", 100)
        use(twin, "u1", 45, org="acme")
        assert twin.figures("org:acme") == (100, 0, 0)
        assert twin.figures("user:ann") == (0, 0, 0)

    def test_usage_beyond_the_hold_takes_what_is_free_then_becomes_debt(self, twin: Twin) -> None:
        give(twin, "org:acme", 50)
        give(twin, "user:ann", 1000)
        twin.do(twin.make.request(org="acme"))
        use(twin, "u1", 60, org="acme")
        assert kinds(twin.entries[-1:]) == [("org:acme", "usage", -50, -45, 10)]
        assert twin.figures("org:acme") == (0, 0, 10)
        assert twin.figures("user:ann") == (1000, 0, 0), "never crosses to another payer"

    def test_usage_nobody_reserved_for_is_the_orgs_if_named_else_the_users(
        self, twin: Twin
    ) -> None:
        give(twin, "user:ann", 10)
        use(twin, "u1", 4, pipeline_id=None, org="acme")
        assert twin.figures("org:acme") == (0, 0, 4)
        use(twin, "u2", 4, pipeline_id=None)
        assert twin.figures("user:ann") == (6, 0, 0)

    def test_usage_beside_a_hold_does_not_touch_what_is_held(self, twin: Twin) -> None:
        give(twin, "user:ann", 50)
        twin.do(twin.make.request())
        use(twin, "u1", 9, pipeline_id=None)
        assert twin.figures("user:ann") == (45, 45, 4)

    def test_the_next_grant_pays_debt_first(self, twin: Twin) -> None:
        owe(twin, "user:ann", 10)
        give(twin, "user:ann", 4)
        assert twin.figures("user:ann") == (0, 0, 6)
        give(twin, "user:ann", 10)
        assert twin.figures("user:ann") == (4, 0, 0)
        assert kinds(twin.entries[-2:]) == [
            ("user:ann", "purchase", 10, 0, 0),
            ("user:ann", "debt", -6, 0, -6),
        ]

    def test_debt_is_not_paid_with_what_is_held(self, twin: Twin) -> None:
        give(twin, "user:ann", 45)
        twin.do(twin.make.request())
        use(twin, "u1", 10, pipeline_id=None)
        give(twin, "user:ann", 4)
        assert twin.figures("user:ann") == (45, 45, 6)

    def test_a_release_pays_debt_first(self, twin: Twin) -> None:
        give(twin, "user:ann", 45)
        twin.do(twin.make.request())
        use(twin, "u1", 10, pipeline_id=None)
        assert twin.figures("user:ann") == (45, 45, 10)
        twin.do(twin.make.finished(usage_events=0))
        assert twin.figures("user:ann") == (35, 0, 0)
        assert kinds(twin.entries[-2:]) == [
            ("user:ann", "release", 0, -45, 0),
            ("user:ann", "debt", -10, 0, -10),
        ]

    def test_usage_after_the_close_is_charged_to_the_holds_payer(self, twin: Twin) -> None:
        give(twin, "user:ann", 45)
        twin.do(twin.make.request(org="acme"))
        twin.do(twin.make.finished(usage_events=0, org="acme"))
        give(twin, "org:acme", 100)
        use(twin, "u1", 5, org="acme")
        assert twin.figures("user:ann") == (40, 0, 0)
        assert twin.figures("org:acme") == (100, 0, 0)
        use(twin, "u2", 50, org="acme")
        assert twin.figures("user:ann") == (0, 0, 10)

    def test_usage_at_the_end_of_the_ttl_is_charged_directly(self, twin: Twin) -> None:
        give(twin, "user:ann", 45)
        twin.do(twin.make.request())
        twin.wait(seconds=3600)
        use(twin, "u1", 5)
        assert kinds(twin.entries[-2:]) == [
            ("user:ann", "release", 0, -45, 0),
            ("user:ann", "usage", -5, 0, 0),
        ]

    @pytest.mark.parametrize("named", [{"user": "bob"}, {"org": "beta"}])
    def test_usage_in_the_name_of_somebody_else_is_refused(
        self, twin: Twin, named: dict[str, Any]
    ) -> None:
        give(twin, "org:acme", 45)
        twin.do(twin.make.request(org="acme"))
        assert reason(use(twin, "u1", **{"org": "acme", **named})) == "payer_mismatch"
        assert use(twin, "u1").result == "charged", "no org named: the hold's"
        assert twin.entries[-1].org == "org:acme"

    def test_usage_of_somebody_elses_free_pipeline_is_not_put_down_to_their_org(
        self, twin: Twin
    ) -> None:
        twin.do(twin.make.request(pipeline="nlp", org="acme"))
        use(twin, "u1", user="bob")
        assert twin.entries[-1].org is None
        use(twin, "u2")
        assert twin.entries[-1].org == "org:acme"

    def test_byok_costs_nothing_and_writes_an_entry_of_zero(self, twin: Twin) -> None:
        give(twin, "user:ann", 45)
        twin.do(twin.make.request())
        assert use(twin, "u1", 40, byok=True).result == "charged"
        assert use(twin, "u2", phase="magic", byok=True).result == "charged"
        assert use(twin, "u3", model="gpt-4", byok=True).result == "charged"
        assert kinds(twin.entries[-3:]) == [("user:ann", "usage", 0, 0, 0)] * 3
        assert twin.entries[-3].usage is not None
        assert twin.entries[-3].usage.byok

    def test_byok_counts_as_settled(self, twin: Twin) -> None:
        give(twin, "user:ann", 45)
        twin.do(twin.make.request())
        twin.do(twin.make.finished(usage_events=1))
        use(twin, "u1", byok=True)
        assert twin.figures("user:ann") == (45, 0, 0)

    def test_usage_of_a_phase_that_costs_nothing_writes_an_entry_of_zero(self, twin: Twin) -> None:
        use(twin, "u1", 40, phase="spellcheck")
        assert kinds(twin.entries) == [("user:ann", "usage", 0, 0, 0)]

    @pytest.mark.parametrize(
        ("age", "fits"),
        [
            (timedelta(days=35), True),
            (timedelta(days=35, microseconds=1), False),
            (-timedelta(minutes=5), True),
            (-timedelta(minutes=5, microseconds=1), False),
        ],
    )
    def test_occurred_at_is_bounded(self, twin: Twin, age: timedelta, fits: bool) -> None:
        answer = twin.do(twin.make.usage("u1", twin.now - age))
        assert (answer.result == "charged") is fits
        assert fits or reason(answer) == "occurred_at_out_of_range"

    def test_one_event_must_cost_less_than_a_billion_credits(self, twin: Twin) -> None:
        assert reason(use(twin, "u1", 10**9)) == "amount_out_of_range"
        assert use(twin, "u1", 10**9 - 1).result == "charged"
