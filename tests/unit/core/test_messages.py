"""Every denial says in words what would help."""

from datetime import timedelta

import pytest
from tests.unit.core.twin import DEFAULT_BOOK, MICRO, Twin

from faregate.ledger.core import Command, Outcome, decide
from faregate.ledger.core.messages import denial_message


@pytest.fixture
def twin() -> Twin:
    twin = Twin()
    twin.apply_prices(DEFAULT_BOOK)
    return twin


def message(twin: Twin, command: Command) -> str:
    (result,) = decide(twin.state, [command], twin.now).results
    assert isinstance(result, Outcome)
    assert result.body is not None
    return denial_message(result.body)


def test_missing_credits_name_who_has_what_and_who_could_buy(twin: Twin) -> None:
    twin.do(twin.make.grant("org:acme", 12 * MICRO + 500_000))
    said = message(twin, twin.make.request(org="acme"))
    assert "45 credits are required, org:acme has 12.5 and user:ann has 0." in said
    assert "Buy credits for org:acme or user:ann" in said


def test_debt_is_named_with_who_owes_it(twin: Twin) -> None:
    twin.do(twin.make.usage("u1", twin.now, org="acme", pipeline_id=None))
    said = message(twin, twin.make.request(org="acme"))
    assert "owed by org:acme: a purchase pays that first" in said


def test_an_unknown_pipeline_and_an_unknown_price_say_how_to_add_it(twin: Twin) -> None:
    said = message(twin, twin.make.request(pipeline="what"))
    assert "'what'" in said
    assert "faregate prices apply FILE" in said
    said = message(twin, twin.make.request(phases=("magic",)))
    assert "magic" in said
    assert "faregate prices apply FILE" in said


def test_an_expired_request_is_to_be_sent_anew(twin: Twin) -> None:
    late = twin.make.request(expires_at=twin.now - timedelta(seconds=1))
    assert "Send a new one" in message(twin, late)


def test_a_used_up_quota_says_until_when_to_wait(twin: Twin) -> None:
    twin.do(twin.make.quota("user:ann", 1))
    twin.do(twin.make.request(pipeline="nlp"))
    said = message(twin, twin.make.request("p2", pipeline="nlp"))
    assert said.startswith("All 1 calls of this period are used. Wait until 2025-03-31T12:00:00Z")


def test_a_member_is_sent_to_the_admin(twin: Twin) -> None:
    twin.do(twin.make.grant("org:acme", 100 * MICRO))
    twin.do(twin.make.policy("allocated"))
    said = message(twin, twin.make.request(org="acme"))
    assert said == (
        "org:acme has allocated no credits to this user. Ask its admin for an allocation."
    )
    twin.do(twin.make.allocate("ann", 7 * MICRO))
    said = message(twin, twin.make.request(org="acme"))
    assert "45 credits are required, 7 are left of what org:acme has allocated" in said
    assert "Ask its admin" in said


def test_waiting_helps_where_credits_are_held(twin: Twin) -> None:
    twin.do(twin.make.grant("user:ann", 50 * MICRO))
    twin.do(twin.make.request("p1"))
    assert "or wait until held credits are released" in message(twin, twin.make.request("p2"))


def test_a_refused_deduction_says_what_a_denial_does(twin: Twin) -> None:
    assert "Buy credits for user:ann" in message(twin, twin.make.deduct(MICRO))
