"""What a caller waits for: deduct whole or not at all; reserve, settle, release."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from tests.unit.core.saying import amounts, give, kinds, micro, owe, reason, use
from tests.unit.core.twin import DEFAULT_BOOK, Twin

MODELS = {
    **DEFAULT_BOOK,
    "models": {
        "gpt-4": {"kind": "credits_per_1k", "credits": 480},
        "by-tier": {"kind": "tier_rate"},
    },
}


def tokens(twin: Twin, model: str = "gpt-4", count: int = 100) -> Any:
    return twin.make.usage("-", twin.now, model=model, tokens=(count, 0))


class TestDeduct:
    def test_it_is_charged_whole_or_not_at_all(self, twin: Twin) -> None:
        give(twin, "user:ann", 5)
        refused = twin.do(twin.make.deduct(micro(5) + 1))
        assert (refused.result, reason(refused)) == ("refused", "insufficient_credits")
        assert refused.facts["considered"] == [("user:ann", 5)]
        assert twin.figures("user:ann") == (5, 0, 0)
        assert twin.do(twin.make.deduct(micro(5))).facts == {"payer": "user:ann", "cost": 5}
        assert twin.figures("user:ann") == (0, 0, 0)

    def test_it_never_touches_what_is_held_and_never_makes_debt(self, twin: Twin) -> None:
        give(twin, "user:ann", 50)
        twin.do(twin.make.request())
        assert reason(twin.do(twin.make.deduct(micro(6)))) == "insufficient_credits"
        assert twin.figures("user:ann") == (50, 45, 0)

    def test_a_pool_pays_or_else_the_user_never_both(self, twin: Twin) -> None:
        give(twin, "org:acme", 5)
        give(twin, "user:ann", 7)
        assert twin.do(twin.make.deduct(micro(5), org="acme")).facts["payer"] == "org:acme"
        assert twin.do(twin.make.deduct(micro(6), org="acme")).facts["payer"] == "user:ann"
        give(twin, "org:acme", 1)
        assert reason(twin.do(twin.make.deduct(micro(2), org="acme"))) == "insufficient_credits"

    def test_debt_refuses_it_unless_it_costs_nothing(self, twin: Twin) -> None:
        owe(twin, "user:ann", 3)
        refused = twin.do(twin.make.deduct(1))
        assert (reason(refused), refused.facts["debts"]) == ("debt_outstanding", ["user:ann"])
        assert twin.do(twin.make.deduct(0)).result == "charged"

    def test_the_quota_comes_before_debt_and_only_where_it_counts(self, twin: Twin) -> None:
        owe(twin, "user:ann", 3)
        twin.do(twin.make.quota("user:ann", 0))
        refused = twin.do(twin.make.deduct(1, counts=True))
        assert (reason(refused), refused.facts["status"]) == ("quota_exceeded", 429)
        assert reason(twin.do(twin.make.deduct(1))) == "debt_outstanding"
        assert twin.do(twin.make.deduct(0)).calls == 0

    def test_a_refusal_is_final_for_its_event(self, twin: Twin) -> None:
        refused = twin.make.deduct(micro(1))
        twin.do(refused)
        give(twin, "user:ann", 5)
        assert twin.do(refused).result == "duplicate"

    def test_the_entry_says_what_for(self, twin: Twin) -> None:
        give(twin, "org:acme", 5)
        twin.do(twin.make.deduct(micro(5), org="acme"))
        entry = twin.entries[-1]
        assert (entry.kind, entry.reason, entry.price_version) == ("usage", "call", 1)
        assert (entry.user, entry.org) == ("user:ann", "org:acme")


class TestReserve:
    def test_an_amount_is_held_settled_and_the_rest_released(self, twin: Twin) -> None:
        give(twin, "user:ann", 10)
        answer = twin.do(twin.make.reserve("h1", micro(8)))
        assert (answer.result, answer.facts["reserved"]) == ("reserved", 8)
        assert answer.facts["hold_expires_at"] == twin.now + timedelta(hours=1)
        assert twin.figures("user:ann") == (10, 8, 0)
        settled = twin.do(twin.make.settle("h1", micro(3)))
        assert settled.facts == {"payer": "user:ann", "cost": 3, "price_version": 1}
        assert kinds(twin.entries[-2:]) == [
            ("user:ann", "usage", -3, -3, 0),
            ("user:ann", "release", 0, -5, 0),
        ]
        assert twin.entries[-1].reason == "settled"

    def test_a_stream_settles_in_parts(self, twin: Twin) -> None:
        give(twin, "user:ann", 10)
        twin.do(twin.make.reserve("h1", micro(8)))
        twin.do(twin.make.settle("h1", micro(3), final=False))
        assert twin.figures("user:ann") == (7, 5, 0)
        twin.do(twin.make.settle("h1", micro(4)))
        assert twin.figures("user:ann") == (3, 0, 0)

    def test_what_happened_is_charged_whole(self, twin: Twin) -> None:
        give(twin, "user:ann", 10)
        twin.do(twin.make.reserve("h1", micro(8)))
        twin.do(twin.make.settle("h1", micro(12)))
        assert twin.figures("user:ann") == (0, 0, 2)

    def test_an_estimate_is_priced_and_the_hold_pins_its_version(self, twin: Twin) -> None:
        twin.apply_prices(MODELS)
        give(twin, "user:ann", 100)
        assert twin.do(twin.make.reserve("h1", None, usage=tokens(twin))).facts["reserved"] == 48
        twin.apply_prices(
            {**MODELS, "models": {"gpt-4": {**MODELS["models"]["gpt-4"], "credits": 9}}}
        )
        facts = twin.do(twin.make.settle("h1", None, usage=tokens(twin, count=50))).facts
        assert (facts["cost"], facts["price_version"]) == (24, 2)

    def test_the_users_tier_is_that_of_the_period_that_began(self, twin: Twin) -> None:
        twin.apply_prices(MODELS)
        twin.do(twin.make.tier("user:ann", "professional"))
        twin.do(twin.make.tier("user:ann", "starter"))
        ttl = timedelta(days=40)
        twin.do(twin.make.reserve("h1", micro(1), ttl=ttl))
        twin.wait(days=30)
        used = tokens(twin, "by-tier", 1000)
        assert float(twin.do(twin.make.settle("h1", None, usage=used)).facts["cost"]) == 0.002

    def test_what_has_no_price_is_refused_and_changes_nothing(self, twin: Twin) -> None:
        give(twin, "user:ann", 10)
        asked = twin.do(twin.make.reserve("h1", None, usage=tokens(twin, "unheard-of")))
        assert (asked.result, reason(asked), asked.facts["status"]) == (
            "refused",
            "unknown_price",
            422,
        )
        twin.do(twin.make.reserve("h1", micro(5)))
        twin.wait(hours=1)  # over, but a settlement that is refused does not close it
        settled = twin.do(twin.make.settle("h1", None, usage=tokens(twin, "unheard-of")))
        assert reason(settled) == "unknown_price"
        assert twin.figures("user:ann") == (10, 5, 0)

    @pytest.mark.parametrize("cost", [10**15, 10**15 - 1])
    def test_amounts_stay_below_a_billion(self, twin: Twin, cost: int) -> None:
        if cost == 10**15:
            assert reason(twin.do(twin.make.reserve("h1", cost))) == "amount_out_of_range"
        twin.do(twin.make.reserve("h1", 0))
        owe(twin, "user:ann", 1)
        assert reason(twin.do(twin.make.settle("h1", cost))) == "amount_out_of_range"

    def test_a_hold_of_nothing_needs_nothing(self, twin: Twin) -> None:
        answer = twin.do(twin.make.reserve("h1", 0))
        assert (answer.result, answer.facts["hold"], twin.entries) == ("reserved", None, [])

    def test_a_hold_of_nothing_is_settled_for_good_once(self, twin: Twin) -> None:
        give(twin, "user:ann", 10)
        twin.do(twin.make.reserve("h1", 0))
        twin.do(twin.make.settle("h1", micro(1), final=False))
        twin.do(twin.make.settle("h1", micro(3)))
        assert reason(twin.do(twin.make.settle("h1", micro(3)))) == "hold_settled"
        assert twin.figures("user:ann") == (6, 0, 0)

    def test_a_call_with_the_callers_own_key_reserves_nothing(self, twin: Twin) -> None:
        used = twin.make.usage("-", twin.now, model="gpt-4", tokens=(100, 0), byok=True)
        for hold, model in (("h1", used), ("h2", tokens(twin, "unheard-of"))):
            asked = twin.make.reserve(hold, None, usage=model, counts=True)
            assert (twin.do(asked).result == "reserved") is (hold == "h1")
        assert twin.do(twin.make.settle("h1", None, usage=used)).facts["cost"] == 0

    def test_an_id_is_used_once(self, twin: Twin) -> None:
        give(twin, "user:ann", 10)
        twin.do(twin.make.reserve("h1", micro(1)))
        assert reason(twin.do(twin.make.reserve("h1", micro(2)))) == "hold_conflict"

    def test_reasons_come_in_the_order_of_the_contract(self, twin: Twin) -> None:
        owe(twin, "user:ann", 3)
        twin.do(twin.make.quota("user:ann", 0))
        said = [
            twin.do(twin.make.reserve("h1", None, usage=tokens(twin, "what"), counts=True)),
            twin.do(twin.make.reserve("h1", micro(1), counts=True)),
            twin.do(twin.make.reserve("h1", micro(1))),
        ]
        assert [reason(a) for a in said] == ["unknown_price", "quota_exceeded", "debt_outstanding"]

    def test_it_is_a_call_where_that_is_said(self, twin: Twin) -> None:
        give(twin, "user:ann", 10)
        assert twin.do(twin.make.reserve("h1", micro(1), counts=True)).calls == 1
        assert twin.do(twin.make.reserve("h2", micro(1))).calls == 0

    def test_an_allocation_is_held_as_well(self, twin: Twin) -> None:
        give(twin, "org:acme", 10)
        twin.do(twin.make.policy("allocated"))
        twin.do(twin.make.allocate("ann", micro(5)))
        twin.do(twin.make.reserve("h1", micro(4), org="acme"))
        member = twin.allocation("ann").subject
        assert (twin.figures("org:acme"), twin.figures(member)) == ((10, 4, 0), (5, 4, 0))
        twin.do(twin.make.settle("h1", micro(1), org="acme"))
        assert (twin.figures("org:acme"), twin.figures(member)) == ((9, 0, 0), (4, 0, 0))

    def test_its_time_is_the_callers_or_the_settings(self, twin: Twin) -> None:
        give(twin, "user:ann", 10)
        twin.do(twin.make.reserve("h1", micro(1), ttl=timedelta(seconds=10)))
        twin.wait(seconds=10)
        twin.do(*twin.due_sweeps())
        assert twin.figures("user:ann") == (10, 0, 0)

    def test_settling_after_its_time_is_charged_directly(self, twin: Twin) -> None:
        give(twin, "user:ann", 10)
        twin.do(twin.make.reserve("h1", micro(4)))
        twin.wait(hours=1)
        twin.do(twin.make.settle("h1", micro(3)))
        assert kinds(twin.entries[-2:]) == [
            ("user:ann", "release", 0, -4, 0),
            ("user:ann", "usage", -3, 0, 0),
        ]

    def test_what_was_settled_for_good_is_not_settled_again(self, twin: Twin) -> None:
        """A repeat without a key would be charged once more."""
        give(twin, "user:ann", 20)
        twin.do(twin.make.reserve("h1", micro(8)))
        twin.do(twin.make.settle("h1", micro(2), final=False))
        twin.do(twin.make.settle("h1", micro(3)))
        for final in (True, False):
            again = twin.make.settle("h1", micro(3), final=final)
            assert reason(twin.do(again)) == "hold_settled"
        assert twin.do(twin.make.release("h1")).facts == {"released": 0}
        assert twin.figures("user:ann") == (15, 0, 0)

    def test_nor_where_that_came_after_its_time(self, twin: Twin) -> None:
        give(twin, "user:ann", 20)
        twin.do(twin.make.reserve("h1", micro(4)))
        twin.wait(hours=1)
        twin.do(twin.make.settle("h1", micro(1), final=False))
        twin.do(twin.make.settle("h1", micro(2)))
        assert reason(twin.do(twin.make.settle("h1", micro(2)))) == "hold_settled"
        assert twin.figures("user:ann") == (17, 0, 0)

    def test_what_was_released_can_still_be_charged(self, twin: Twin) -> None:
        """Who gave the rest back has not said that nothing was used."""
        give(twin, "user:ann", 20)
        twin.do(twin.make.reserve("h1", micro(4)))
        twin.do(twin.make.release("h1"))
        twin.do(twin.make.settle("h1", micro(3)))
        assert twin.figures("user:ann") == (17, 0, 0)
        assert reason(twin.do(twin.make.settle("h1", micro(3)))) == "hold_settled"

    def test_who_has_left_settles_what_they_held_and_no_more(self, twin: Twin) -> None:
        give(twin, "user:ann", 20)
        twin.do(twin.make.reserve("h1", micro(4)))
        twin.do(twin.make.settle("h1", micro(3), within=True, final=False))
        assert reason(twin.do(twin.make.settle("h1", micro(2), within=True))) == "beyond_hold"
        twin.do(twin.make.settle("h1", micro(1), within=True, final=False))
        twin.do(twin.make.release("h1"))
        assert reason(twin.do(twin.make.settle("h1", 1, within=True))) == "beyond_hold"
        twin.do(twin.make.reserve("h2", 0))
        assert reason(twin.do(twin.make.settle("h2", 1, within=True))) == "beyond_hold"
        assert twin.figures("user:ann") == (16, 0, 0)
        twin.do(twin.make.reserve("h3", micro(4)))
        twin.wait(hours=2)
        assert reason(twin.do(twin.make.settle("h3", micro(4), within=True))) == "beyond_hold"

    def test_what_can_only_be_a_repeat_begins_nothing(self, twin: Twin) -> None:
        give(twin, "user:ann", 20)
        asked = twin.make.reserve("h1", micro(4))
        repeat = replace(asked, identity=replace(asked.identity, is_repeat=True))
        assert reason(twin.do(repeat)) == "never_begun"
        twin.do(asked)
        assert twin.do(repeat).result == "duplicate"
        assert twin.figures("user:ann") == (20, 4, 0)

    def test_release_gives_back_and_twice_is_harmless(self, twin: Twin) -> None:
        give(twin, "user:ann", 10)
        twin.do(twin.make.reserve("h1", micro(4)))
        assert twin.do(twin.make.release("h1")).facts == {"released": 4}
        assert twin.entries[-1].reason == "released"
        assert twin.do(twin.make.release("h1")).facts == {"released": 0}
        assert twin.figures("user:ann") == (10, 0, 0)

    @pytest.mark.parametrize("whose", [{"user": "bob"}, {"org": "acme"}])
    def test_nobody_settles_or_releases_somebody_elses_hold(
        self, twin: Twin, whose: dict[str, Any]
    ) -> None:
        give(twin, "user:ann", 10)
        twin.do(twin.make.reserve("h1", micro(4)))
        for command in (twin.make.settle("h1", 1, **whose), twin.make.release("h1", **whose)):
            assert reason(twin.do(command)) == "payer_mismatch"
        twin.wait(hours=1)
        for command in (twin.make.settle("h1", 1, **whose), twin.make.release("h1", **whose)):
            assert reason(twin.do(command)) == "unknown_hold"
        assert reason(twin.do(twin.make.release("h2"))) == "unknown_hold"

    def test_nor_one_that_holds_nothing(self, twin: Twin) -> None:
        twin.do(twin.make.reserve("h1", 0))
        for command in (twin.make.settle("h1", 1, user="bob"), twin.make.release("h1", org="acme")):
            assert reason(twin.do(command)) == "unknown_hold"

    def test_usage_events_settle_against_it_too(self, twin: Twin) -> None:
        give(twin, "user:ann", 10)
        twin.do(twin.make.reserve("h1", micro(4)))
        use(twin, "u1", 3, pipeline_id="h1")
        assert amounts(twin.entries[-1:]) == [("usage", -3)]
        assert twin.figures("user:ann") == (7, 1, 0)
