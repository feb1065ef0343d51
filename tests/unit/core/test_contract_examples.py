"""What the contract says, example by example: the price of a run, who pays, pruning.

The model checks every step of every example as well.
"""

from datetime import timedelta
from random import Random

import pytest
from tests.unit.core.saying import give, owe, reason
from tests.unit.core.twin import Twin


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
