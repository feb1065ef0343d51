"""The contract's price versions, identity, operations and provisioning."""

from dataclasses import replace
from datetime import timedelta

import pytest
from tests.unit.core.model_parts import Answer
from tests.unit.core.saying import give, kinds, owe, priced, reason, use
from tests.unit.core.twin import DEFAULT_BOOK, MICRO, Twin, key

from faregate.ledger.core import Command, Rules


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
