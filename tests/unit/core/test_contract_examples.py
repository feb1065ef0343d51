"""What the contract says, example by example; the model checks every step as well."""

from dataclasses import replace
from datetime import timedelta
from random import Random
from typing import Any

import pytest
from tests.unit.core.model import Answer
from tests.unit.core.twin import DEFAULT_BOOK, MICRO, Twin, key

from faregate.ledger.core import Command, Entry, Rules


@pytest.fixture
def twin() -> Twin:
    """An empty ledger with the default price book, in force for a long time."""
    empty = Twin()
    empty.apply_prices(DEFAULT_BOOK, empty.now - timedelta(days=300))
    return empty


def give(twin: Twin, subject: str, amount: float) -> None:
    assert twin.do(twin.make.grant(subject, round(amount * MICRO))).result == "granted"


def use(twin: Twin, usage_id: str, units: int = 1, **fields: Any) -> Answer:
    return twin.do(twin.make.usage(usage_id, twin.now, units=units, **fields))


def owe(twin: Twin, subject: str, amount: int) -> None:
    """Let usage that nobody reserved for leave the (empty) account in debt."""
    kind, _, name = subject.partition(":")
    whose = {"org": name, "user": "cat"} if kind == "org" else {"user": name}
    use(twin, f"debt-of-{subject}", amount, pipeline_id=None, **whose)
    assert twin.figures(subject) == (0, 0, amount)


def kinds(entries: list[Entry]) -> list[tuple[str, str, float, float, float]]:
    return [
        (e.subject, e.kind, e.amount / MICRO, e.held_delta / MICRO, e.debt_delta / MICRO)
        for e in entries
    ]


def reason(answer: Answer) -> object:
    return answer.facts.get("reason") or answer.facts.get("code")


class TestWhatARunCosts:
    def test_ten_essays_need_45_credits(self, twin: Twin) -> None:
        give(twin, "user:ann", 45)
        answer = twin.do(twin.make.request(items=10))
        assert (answer.result, answer.facts["reserved"]) == ("initiated", 45)
        assert answer.facts["phases"] == ["spellcheck", "cj_assessment"]
        assert twin.figures("user:ann") == (45, 45, 0)

    def test_a_micro_credit_less_is_not_enough(self, twin: Twin) -> None:
        give(twin, "user:ann", 44.999999)
        answer = twin.do(twin.make.request(items=10))
        assert reason(answer) == "insufficient_credits"
        assert (answer.facts["required"], answer.facts["status"]) == (45, 402)
        assert twin.figures("user:ann") == (44.999999, 0, 0)

    def test_nlp_costs_nothing_and_passes_at_balance_zero(self, twin: Twin) -> None:
        answer = twin.do(twin.make.request(pipeline="nlp", items=1000))
        assert (answer.result, answer.facts["reserved"]) == ("initiated", 0)
        assert answer.facts["hold"] is None
        assert twin.entries == []

    def test_what_costs_nothing_passes_in_debt_too(self, twin: Twin) -> None:
        owe(twin, "user:ann", 3)
        assert twin.do(twin.make.request(pipeline="nlp")).result == "initiated"

    @pytest.mark.parametrize(
        ("phases", "required"),
        [
            (("each",), 5),
            (("pairs",), 22.5),
            (("once",), 3),
            (("once", "each"), 8),
            (("each", "pairs", "free", "once"), 30.5),
        ],
    )
    def test_phases_are_priced_per_item_per_pair_or_flat_and_added_up(
        self, twin: Twin, phases: tuple[str, ...], required: float
    ) -> None:
        per = {"each": ("item", 0.5), "pairs": ("pair", 0.5), "once": ("flat", 3)}
        book = {name: {"per": unit, "credits": price} for name, (unit, price) in per.items()}
        book["free"] = {"per": "flat", "credits": 0}
        twin.apply_prices({"pipelines": {"all": [*book]}, "phases": book})
        give(twin, "user:ann", 50)
        assert float(twin.do(twin.make.request(phases=phases)).facts["reserved"]) == required

    def test_a_pair_needs_two(self, twin: Twin) -> None:
        answer = twin.do(twin.make.request(items=1))
        assert (answer.result, answer.facts["reserved"]) == ("initiated", 0)

    def test_an_unknown_phase_is_denied_and_never_free(self, twin: Twin) -> None:
        give(twin, "user:ann", 100)
        answer = twin.do(twin.make.request(phases=("spellcheck", "magic")))
        assert (reason(answer), answer.facts["status"]) == ("unknown_price", 422)

    def test_an_unknown_pipeline_is_denied_unless_its_phases_are_named(self, twin: Twin) -> None:
        give(twin, "user:ann", 100)
        answer = twin.do(twin.make.request(pipeline="what"))
        assert (reason(answer), answer.facts["status"]) == ("unknown_pipeline", 422)
        named = twin.do(twin.make.request(pipeline="what", phases=("cj_assessment",), items=2))
        assert named.facts["reserved"] == 1

    def test_without_any_price_book_named_phases_have_no_price(self) -> None:
        twin = Twin()
        assert reason(twin.do(twin.make.request())) == "unknown_pipeline"
        assert reason(twin.do(twin.make.request(phases=("spellcheck",)))) == "unknown_price"


class TestWhoPays:
    def test_the_org_pays_where_one_is_named(self, twin: Twin) -> None:
        give(twin, "org:acme", 45)
        give(twin, "user:ann", 45)
        assert twin.do(twin.make.request(org="acme")).facts["payer"] == "org:acme"
        assert twin.figures("user:ann") == (45, 0, 0)

    def test_without_an_org_the_user_pays(self, twin: Twin) -> None:
        give(twin, "org:acme", 45)
        answer = twin.do(twin.make.request())
        assert reason(answer) == "insufficient_credits"
        assert answer.facts["considered"] == [("user:ann", 0)]

    def test_an_org_that_does_not_cover_the_whole_falls_back_to_the_user(self, twin: Twin) -> None:
        give(twin, "org:acme", 44)
        give(twin, "user:ann", 45)
        assert twin.do(twin.make.request(org="acme")).facts["payer"] == "user:ann"
        assert twin.figures("org:acme") == (44, 0, 0)
        assert twin.figures("user:ann") == (45, 45, 0)

    def test_all_or_nothing_a_run_is_never_split(self, twin: Twin) -> None:
        give(twin, "org:acme", 44)
        give(twin, "user:ann", 44)
        answer = twin.do(twin.make.request(org="acme"))
        assert reason(answer) == "insufficient_credits"
        assert answer.facts["considered"] == [("org:acme", 44), ("user:ann", 44)]
        assert answer.facts["available"] == 44
        assert twin.figures("org:acme") == twin.figures("user:ann") == (44, 0, 0)

    def test_what_is_held_is_not_available(self, twin: Twin) -> None:
        give(twin, "user:ann", 89)
        assert twin.do(twin.make.request("p1")).result == "initiated"
        answer = twin.do(twin.make.request("p2", batch="b2"))
        assert (reason(answer), answer.facts["available"]) == ("insufficient_credits", 44)

    def test_an_indebted_org_falls_back_to_the_user_and_keeps_its_debt(self, twin: Twin) -> None:
        owe(twin, "org:acme", 7)
        give(twin, "user:ann", 45)
        assert twin.do(twin.make.request(org="acme")).facts["payer"] == "user:ann"
        assert twin.figures("org:acme") == (0, 0, 7)
        assert twin.figures("user:ann") == (45, 45, 0)

    def test_debt_is_the_reason_before_missing_credits(self, twin: Twin) -> None:
        owe(twin, "org:acme", 7)
        give(twin, "user:ann", 44)
        answer = twin.do(twin.make.request(org="acme"))
        assert (reason(answer), answer.facts["status"]) == ("debt_outstanding", 402)
        assert answer.facts["debts"] == ["org:acme"]
        assert reason(twin.do(twin.make.request())) == "insufficient_credits"

    def test_the_users_debt_is_a_reason_as_well(self, twin: Twin) -> None:
        give(twin, "org:acme", 44)
        owe(twin, "user:ann", 7)
        answer = twin.do(twin.make.request(org="acme"))
        assert (reason(answer), answer.facts["debts"]) == ("debt_outstanding", ["user:ann"])

    def test_reasons_come_in_the_order_of_the_contract(self, twin: Twin) -> None:
        """Everything is wrong with the first request; each one after it has one fault less."""
        owe(twin, "user:ann", 7)
        over, make = twin.now - timedelta(seconds=1), twin.make
        wrong = [
            make.request(pipeline="what", expires_at=over),
            make.request(phases=("magic", "cj_assessment"), expires_at=over),
            make.request(expires_at=over),
            make.request(),
        ]
        answers = [twin.do(command) for command in wrong]
        assert [reason(a) for a in answers] == [
            "unknown_pipeline",
            "unknown_price",
            "request_expired",
            "debt_outstanding",
        ]
        assert [a.facts["status"] for a in answers] == [422, 422, 410, 402]
        give(twin, "user:ann", 8)
        assert reason(twin.do(make.request())) == "insufficient_credits"

    def test_an_expired_request_is_denied_though_it_costs_nothing(self, twin: Twin) -> None:
        late = twin.make.request(pipeline="nlp", expires_at=twin.now)
        assert reason(twin.do(late)) == "request_expired"
        in_time = twin.make.request(pipeline="nlp", expires_at=twin.now + timedelta(seconds=1))
        assert twin.do(in_time).result == "initiated"

    def test_of_a_thousand_requests_racing_for_one_credit_one_wins(self, twin: Twin) -> None:
        give(twin, "org:acme", 1)
        race = [
            twin.make.request(f"p{n}", items=2, org="acme", user="ann", batch=f"b{n}")
            for n in range(1000)
        ]
        Random(1).shuffle(race)
        answers = twin.submit(*race)
        assert [a.result for a in answers if a] == ["initiated"] + ["denied"] * 999
        assert twin.figures("org:acme") == (1, 1, 0)


class TestPruning:
    def test_a_completed_phase_is_not_run_again(self, twin: Twin) -> None:
        give(twin, "user:ann", 90)
        twin.do(twin.make.request("p1"))
        twin.do(twin.make.completed("spellcheck"))
        answer = twin.do(twin.make.request("p2"))
        assert answer.facts["phases"] == ["cj_assessment"]
        assert answer.facts["pruned"] == ["spellcheck"]
        assert answer.facts["reserved"] == 45

    def test_all_pruned_is_let_in_with_nothing_held(self, twin: Twin) -> None:
        twin.do(twin.make.completed("spellcheck", items=10))
        twin.do(twin.make.completed("cj_assessment", items=10))
        answer = twin.do(twin.make.request(items=10))
        assert answer.result == "initiated"
        assert (answer.facts["phases"], answer.facts["hold"]) == ([], None)
        assert answer.facts["pruned"] == ["spellcheck", "cj_assessment"]

    @pytest.mark.parametrize(("items", "pruned"), [(9, True), (10, True), (11, False)])
    def test_completed_items_must_cover_the_request(
        self, twin: Twin, items: int, pruned: bool
    ) -> None:
        give(twin, "user:ann", 100)
        twin.do(twin.make.completed("cj_assessment", items=10))
        answer = twin.do(twin.make.request(items=items))
        assert ("cj_assessment" in answer.facts["pruned"]) is pruned

    def test_the_run_says_how_many_items_a_completion_covers(self, twin: Twin) -> None:
        give(twin, "user:ann", 100)
        twin.do(twin.make.request("p1", items=2))
        twin.do(twin.make.completed("cj_assessment", pipeline_id="p1"))
        assert twin.do(twin.make.request("p2", items=2)).facts["reserved"] == 0
        assert twin.do(twin.make.request("p3", items=3)).facts["reserved"] == 3

    def test_fewer_items_later_do_not_uncover_more(self, twin: Twin) -> None:
        twin.do(twin.make.completed("cj_assessment", items=10))
        twin.do(twin.make.completed("cj_assessment", items=2))
        assert twin.do(twin.make.request(items=10)).result == "initiated"

    def test_a_completion_that_says_no_items_of_an_unknown_run_covers_all(self, twin: Twin) -> None:
        twin.do(twin.make.completed("cj_assessment"))
        assert twin.do(twin.make.request(items=1000)).facts["reserved"] == 0

    def test_pruning_is_by_batch_and_by_org_or_user(self, twin: Twin) -> None:
        give(twin, "user:ann", 45)
        twin.do(twin.make.completed("cj_assessment", items=10, org="acme"))
        assert twin.do(twin.make.request("p1", org="acme", user="bob")).facts["reserved"] == 0
        assert reason(twin.do(twin.make.request("p2", org="beta", user="bob"))) is not None
        assert reason(twin.do(twin.make.request("p3", org="acme", user="bob", batch="b2")))
        assert twin.do(twin.make.request("p4", user="ann")).facts["reserved"] == 45

    def test_a_pruned_phase_needs_no_price(self, twin: Twin) -> None:
        twin.do(twin.make.completed("magic", items=10))
        assert twin.do(twin.make.request(phases=("magic", "spellcheck"))).result == "initiated"


class TestHolds:
    def test_a_live_pipeline_is_answered_with_the_same_hold(self, twin: Twin) -> None:
        give(twin, "user:ann", 100)
        first = twin.do(twin.make.request(event="one"))
        twin.wait(seconds=60)
        again = twin.do(twin.make.request(event="two"))
        assert again == first
        assert again.result == "initiated"
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


def priced(price: float, phase: str = "cj_assessment") -> dict[str, Any]:
    return {**DEFAULT_BOOK, "phases": {phase: {"per": "item", "credits": price}}}


class TestPriceVersions:
    def test_the_live_hold_pins_the_version(self, twin: Twin) -> None:
        give(twin, "user:ann", 100)
        twin.do(twin.make.request())
        twin.apply_prices(priced(7))
        use(twin, "u1", 1)
        assert (twin.entries[-1].amount, twin.entries[-1].price_version) == (-1 * MICRO, 1)

    def test_without_a_live_hold_occurred_at_chooses(self, twin: Twin) -> None:
        give(twin, "user:ann", 100)
        twin.do(twin.make.request())
        twin.do(twin.make.finished(usage_events=0))
        twin.apply_prices(priced(7))
        twin.wait(hours=1)
        before, at = twin.now - timedelta(hours=1, microseconds=1), twin.now - timedelta(hours=1)
        twin.do(twin.make.usage("u1", before))
        assert (twin.entries[-1].amount, twin.entries[-1].price_version) == (-1 * MICRO, 1)
        twin.do(twin.make.usage("u2", at))
        assert (twin.entries[-1].amount, twin.entries[-1].price_version) == (-7 * MICRO, 2)

    def test_at_the_end_of_the_ttl_the_hold_pins_no_more(self, twin: Twin) -> None:
        give(twin, "user:ann", 100)
        twin.do(twin.make.request())
        twin.wait(seconds=3600)
        twin.apply_prices(priced(7))
        use(twin, "u1", 1)
        assert twin.entries[-1].price_version == 2

    def test_a_finished_pipeline_keeps_its_version_during_the_grace(self, twin: Twin) -> None:
        give(twin, "user:ann", 100)
        twin.do(twin.make.request())
        twin.do(twin.make.finished())
        twin.apply_prices(priced(7))
        use(twin, "u1", 1)
        assert twin.entries[-1].price_version == 1

    def test_a_request_is_priced_now_and_not_by_what_comes_later(self, twin: Twin) -> None:
        give(twin, "user:ann", 100)
        twin.apply_prices(priced(7), twin.now + timedelta(microseconds=1))
        twin.apply_prices(priced(3), twin.now)
        twin.apply_prices(priced(5), twin.now - timedelta(days=1))
        answer = twin.do(twin.make.request(phases=("cj_assessment",), items=2))
        assert (answer.facts["reserved"], answer.facts["price_version"]) == (6, 3)

    def test_of_two_versions_from_the_same_moment_the_later_number_counts(self, twin: Twin) -> None:
        twin.apply_prices(priced(7))
        twin.apply_prices(priced(3))
        use(twin, "u1", 1)
        assert twin.entries[-1].price_version == 3

    def test_usage_without_a_price_is_kept_and_charged_once_there_is_one(self, twin: Twin) -> None:
        give(twin, "user:ann", 100)
        assert use(twin, "u1", 2, phase="magic", pipeline_id=None).result == "unpriced"
        assert use(twin, "u2", model="gpt-4", pipeline_id=None).result == "unpriced"
        assert twin.figures("user:ann") == (100, 0, 0)
        assert twin.submit(*twin.late_charges()) == [None, None]
        twin.wait(days=40)  # the bounds of occurred_at are for usage that comes in
        twin.apply_prices(priced(9, "magic"), twin.now + timedelta(days=1))
        assert twin.submit(*twin.late_charges()) == [None, None], "not in force yet"
        twin.apply_prices(priced(4, "magic"))
        twin.wait(days=2)  # both are by now: the first one counts
        charges = twin.late_charges()
        assert twin.submit(*charges) == [Answer("charged"), None]
        assert (twin.entries[-1].amount, twin.entries[-1].price_version) == (-8 * MICRO, 3)
        assert twin.submit(charges[0]) == [Answer("duplicate", {"of": "charged"})]
        assert len(twin.kept) == 1

    def test_a_late_charge_goes_to_the_holds_payer(self, twin: Twin) -> None:
        give(twin, "user:ann", 45)
        twin.do(twin.make.request(org="acme"))
        use(twin, "u1", 2, phase="magic", org="acme")
        twin.do(twin.make.finished(usage_events=0, org="acme"))
        give(twin, "org:acme", 100)
        twin.apply_prices(priced(4, "magic"))
        twin.submit(*twin.late_charges())
        assert twin.figures("org:acme") == (100, 0, 0)
        assert twin.figures("user:ann") == (37, 0, 0)

    def test_usage_without_a_price_is_a_duplicate_the_second_time(self, twin: Twin) -> None:
        command = twin.make.usage("u1", twin.now, phase="magic")
        assert twin.do(command).result == "unpriced"
        assert twin.do(command) == Answer("duplicate", {"of": "unpriced"})
        assert len(twin.kept) == 1

    def test_kept_usage_that_is_refused_at_last_is_still_kept(self, twin: Twin) -> None:
        """With another outcome in the batch, a wrong `charged` would delete it for good."""
        use(twin, "u1", 10**9, phase="magic", pipeline_id=None)
        twin.apply_prices(priced(1, "magic"))
        answers = twin.submit(*twin.late_charges(), twin.make.grant("user:bob", MICRO))
        assert [a.result for a in answers if a] == ["rejected", "granted"]
        assert len(twin.kept) == 1


class TestIdentity:
    def test_a_duplicate_changes_nothing(self, twin: Twin) -> None:
        give(twin, "user:ann", 100)
        commands: list[Command] = [
            twin.make.request(),
            twin.make.usage("u1", twin.now, units=5),
            twin.make.completed(),
            twin.make.grant("user:ann", MICRO),
            twin.make.set_balance("user:ann", 90),
            twin.make.finished(),
        ]
        first = twin.submit(*commands)
        written = len(twin.entries)
        for again in (twin.submit(*commands), twin.submit(*reversed(commands))):
            assert {a.result for a in again if a} == {"duplicate"}
        assert len(twin.entries) == written
        assert [a.result for a in first if a] == [
            "initiated",
            "charged",
            "recorded",
            "granted",
            "set",
            "recorded",
        ]

    def test_a_denial_is_final_for_its_event(self, twin: Twin) -> None:
        denied = twin.make.request()
        twin.do(denied)
        give(twin, "user:ann", 100)
        assert twin.do(denied) == Answer("duplicate", {"of": "denied"})
        assert twin.do(twin.make.request(event="anew")).result == "initiated"

    def test_a_duplicate_in_the_same_batch_counts_once(self, twin: Twin) -> None:
        give(twin, "user:ann", 100)
        command = twin.make.usage("u1", twin.now, units=5, pipeline_id=None)
        twin.submit(command, command, command)
        assert twin.figures("user:ann") == (95, 0, 0)

    def test_the_same_usage_under_a_new_event_id_counts_once(self, twin: Twin) -> None:
        give(twin, "user:ann", 100)
        for event in ("one", "two"):
            twin.do(twin.make.usage("u1", twin.now, units=5, event=event))
        assert twin.figures("user:ann") == (95, 0, 0)

    def test_a_usage_id_with_other_content_is_a_conflict(self, twin: Twin) -> None:
        give(twin, "user:ann", 100)
        use(twin, "u1", 5)
        assert reason(use(twin, "u1", 6)) == "idempotency_conflict"
        assert twin.figures("user:ann") == (95, 0, 0)

    def test_an_event_id_with_other_content_is_a_conflict(self, twin: Twin) -> None:
        give(twin, "user:ann", 100)
        twin.do(twin.make.request(event="one", items=2))
        assert reason(twin.do(twin.make.request(event="one"))) == "idempotency_conflict"
        assert twin.figures("user:ann") == (100, 1, 0)

    def test_what_was_refused_can_be_sent_again(self, twin: Twin) -> None:
        future = twin.make.usage("u1", twin.now + timedelta(minutes=6))
        assert twin.do(future).result == "rejected"
        twin.wait(minutes=1)
        assert twin.do(future).result == "charged"


class TestOperations:
    @pytest.mark.parametrize("target", [0, 5, 100])
    def test_set_balance_leaves_the_target_and_no_debt(self, twin: Twin, target: int) -> None:
        owe(twin, "user:ann", 10)
        assert twin.do(twin.make.set_balance("user:ann", target)).result == "set"
        assert twin.figures("user:ann") == (target, 0, 0)
        assert twin.entries[-1].kind == "adjustment"

    def test_set_balance_goes_down_too(self, twin: Twin) -> None:
        give(twin, "user:ann", 10)
        twin.do(twin.make.set_balance("user:ann", 3))
        assert kinds(twin.entries[-1:]) == [("user:ann", "adjustment", -7, 0, 0)]

    def test_below_what_is_held_is_refused(self, twin: Twin) -> None:
        give(twin, "user:ann", 100)
        twin.do(twin.make.request())
        assert reason(twin.do(twin.make.set_balance("user:ann", 44))) == "below_held"
        assert twin.figures("user:ann") == (100, 45, 0)
        assert twin.do(twin.make.set_balance("user:ann", 45)).result == "set"
        assert twin.figures("user:ann") == (45, 45, 0)

    def test_a_balance_stays_below_a_billion(self, twin: Twin) -> None:
        give(twin, "user:ann", 1)
        too_much = twin.make.grant("user:ann", 10**15 - MICRO)
        assert reason(twin.do(too_much)) == "amount_out_of_range"
        assert twin.do(twin.make.grant("user:ann", 10**15 - MICRO - 1)).result == "granted"

    def test_time_of_an_account_never_goes_back(self, twin: Twin) -> None:
        give(twin, "user:ann", 1)
        twin.wait(seconds=-10)
        give(twin, "user:ann", 1)
        assert twin.entries[-1].at == twin.entries[-2].at


class TestProvisioning:
    @pytest.fixture
    def auto(self) -> Twin:
        twin = Twin(Rules(provisioning="auto"))
        twin.apply_prices(DEFAULT_BOOK, twin.now - timedelta(days=300))
        return twin

    def test_a_user_seen_for_the_first_time_gets_the_welcome_grant_once(self, auto: Twin) -> None:
        auto.do(auto.make.request(items=2))
        assert kinds(auto.entries) == [
            ("user:ann", "purchase", 5, 0, 0),
            ("user:ann", "hold", 0, 1, 0),
        ]
        assert auto.account("user:ann").tier == "trial"
        auto.do(auto.make.request("p2", items=2))
        use(auto, "u1", pipeline_id=None)
        assert auto.figures("user:ann") == (4, 2, 0)

    def test_usage_is_the_last_resort(self, auto: Twin) -> None:
        use(auto, "u1", 7, pipeline_id=None)
        assert kinds(auto.entries) == [
            ("user:ann", "purchase", 5, 0, 0),
            ("user:ann", "usage", -5, 0, 2),
        ]

    def test_an_org_gets_none_and_its_user_does(self, auto: Twin) -> None:
        answer = auto.do(auto.make.request(org="acme", items=3))
        assert answer.facts["payer"] == "user:ann"
        assert auto.figures("org:acme") == (0, 0, 0)

    def test_an_account_made_by_credits_set_gets_none(self, auto: Twin) -> None:
        auto.do(auto.make.set_balance("user:ann", 0))
        assert reason(auto.do(auto.make.request())) == "insufficient_credits"
        assert auto.figures("user:ann") == (0, 0, 0)

    def test_a_refusal_provisions_nobody(self, auto: Twin) -> None:
        auto.do(auto.make.usage("u1", auto.now - timedelta(days=36)))
        assert auto.entries == []

    def test_manual_gives_nothing(self, twin: Twin) -> None:
        assert reason(twin.do(twin.make.request())) == "insufficient_credits"
        assert twin.entries == []


def test_every_entry_names_its_hold_its_user_its_org_and_its_version(twin: Twin) -> None:
    give(twin, "org:acme", 45)
    twin.do(twin.make.request(org="acme"))
    use(twin, "u1", 5)
    twin.do(twin.make.finished(usage_events=1))
    run = twin.run("p1")
    assert run is not None
    assert run.hold is not None
    assert [e.kind for e in twin.entries[1:]] == ["hold", "usage", "release"]
    for entry in twin.entries[1:]:
        assert entry.hold_id == run.hold.id
        assert (entry.user, entry.org, entry.price_version) == ("user:ann", "org:acme", 1)


def test_a_hold_gets_its_id_from_its_request(twin: Twin) -> None:
    """So that deciding again, after a crash before the commit, makes the same hold."""
    give(twin, "user:ann", 45)
    command = twin.make.request(event="one")
    other = replace(command, identity=replace(command.identity, event_key=key("event", "two")))
    ids = []
    for request in (command, command, other):
        fresh = Twin()
        fresh.apply_prices(DEFAULT_BOOK)
        give(fresh, "user:ann", 45)
        fresh.do(request)
        ids.append(fresh.entries[-1].hold_id)
    assert ids[0] == ids[1] != ids[2]
