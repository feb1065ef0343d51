"""What the payload models take and refuse."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from faregate.events import (
    EVENT_TYPES,
    ConsideredPayer,
    CreditsLowV1,
    Event,
    EventData,
    InvalidRecord,
    PipelineDeniedV1,
    PipelineFinishedV1,
    PipelinePhaseCompletedV1,
    PipelineRequestedV1,
    UsageRecordedV1,
    UserRegisteredV1,
    encode,
    parse,
)
from faregate.events.examples import examples

REQUEST = {
    "pipeline_id": "run-7",
    "pipeline": "cj_assessment",
    "user_id": "ada",
    "batch_id": "class-9b",
    "items": 10,
}
USAGE = {"usage_id": "u-1", "user_id": "ada", "occurred_at": "2025-06-01T12:00:00Z"}
BY_PHASE = {**USAGE, "phase": "cj_assessment", "units": 45}
BY_MODEL = {**USAGE, "model": "gpt-4o-mini", "input_tokens": 1200, "output_tokens": 0}


def accept(model: type[EventData], data: dict[str, Any]) -> EventData:
    return parse(Event("e-1", "/test", model.__name__, data))


def refuse(model: type[EventData], data: dict[str, Any]) -> str:
    with pytest.raises(InvalidRecord) as caught:
        accept(model, data)
    assert caught.value.code == "invalid_data"
    return caught.value.message


@pytest.mark.parametrize("items", [1, 10, 1_000_000])
def test_items_in_range(items: int) -> None:
    assert accept(PipelineRequestedV1, {**REQUEST, "items": items})


@pytest.mark.parametrize(
    "items",
    [0, -1, 1_000_001, 2**63, 2**64, True, False, "10", 10.0, 0.5, float("nan"), float("inf"), None,
     [], {}],
)  # fmt: skip
def test_items_that_are_none(items: object) -> None:
    assert "data.items" in refuse(PipelineRequestedV1, {**REQUEST, "items": items})


@pytest.mark.parametrize(
    "identifier", ["a", "ø", "urn:x/y#1", "two words", "a" * 200, "日本", "😀"]
)
def test_good_identifiers(identifier: str) -> None:
    assert accept(PipelineRequestedV1, {**REQUEST, "user_id": identifier})


@pytest.mark.parametrize(
    "identifier",
    ["", " ", " a", "a ", "a\n", "\ta", "a\u00a0", "a\x00b", "a\x1fb", "a\x7fb", "a\x85b", "a\x9fb",
     "a\u061cb", "a\u200bb", "a\u200db", "a\u200eb", "a\u200fb", "a\u202ab", "a\u202eb", "a\u2060b",
     "a\u2066b", "a\u2069b", "\ufeffa", "a\ud800b", "a" * 201, 7, True, None, ["a"]],
)  # fmt: skip
def test_bad_identifiers(identifier: object) -> None:
    for field in ("user_id", "pipeline_id", "pipeline", "batch_id"):
        assert f"data.{field}" in refuse(PipelineRequestedV1, {**REQUEST, field: identifier})


@pytest.mark.parametrize("field", REQUEST)
def test_a_missing_field_is_named(field: str) -> None:
    data = {name: value for name, value in REQUEST.items() if name != field}
    assert f"data.{field}" in refuse(PipelineRequestedV1, data)


def test_null_means_absent_for_optional_fields() -> None:
    with_nulls = {**REQUEST, "org_id": None, "phases": None, "expires_at": None}
    assert accept(PipelineRequestedV1, with_nulls) == accept(PipelineRequestedV1, REQUEST)
    with_nulls = {**BY_PHASE, "byok": None, "model": None, "provider": None, "input_tokens": None}
    assert accept(UsageRecordedV1, with_nulls) == accept(UsageRecordedV1, BY_PHASE)


@pytest.mark.parametrize(
    "phases", [[], ["a", "a"], [""], [1], "a", {"a": 1}, [f"p{n}" for n in range(65)], ["a\x00"]]
)
def test_phases_must_be_a_list_of_different_names(phases: object) -> None:
    assert "data.phases" in refuse(PipelineRequestedV1, {**REQUEST, "phases": phases})


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2025-06-01T12:00:00Z", datetime(2025, 6, 1, 12, tzinfo=UTC)),
        ("2025-06-01t12:00:00.25z", datetime(2025, 6, 1, 12, 0, 0, 250_000, tzinfo=UTC)),
        ("2025-06-01T12:00:00.123456789Z", datetime(2025, 6, 1, 12, 0, 0, 123_456, tzinfo=UTC)),
        ("2025-06-01T14:00:00+02:00", datetime(2025, 6, 1, 12, tzinfo=UTC)),
    ],
)
def test_times_become_utc(text: str, moment: datetime) -> None:
    usage = accept(UsageRecordedV1, {**BY_PHASE, "occurred_at": text})
    assert isinstance(usage, UsageRecordedV1)
    assert usage.occurred_at == moment
    assert usage.occurred_at.tzinfo is UTC


@pytest.mark.parametrize(
    "moment",
    ["", "now", "2025-06-01", "2025-06-01T12:00:00", "2025-02-30T00:00:00Z", "20250601T120000Z",
     "2025-W22-7T00:00:00Z", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00",
     "0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z", "9999-12-31T22:59:59.999999-01:00",
     "٢٠٢٥-06-01T12:00:00Z", "2025-06-01T12:00:00Z\n", 1_748_779_200, 1.5, True, None,
     datetime(2025, 6, 1, 12)],  # noqa: DTZ001 - naive on purpose
)  # fmt: skip
def test_times_that_are_none(moment: object) -> None:
    assert "data.occurred_at" in refuse(UsageRecordedV1, {**BY_PHASE, "occurred_at": moment})


@pytest.mark.parametrize("data", [BY_PHASE, BY_MODEL, {**BY_MODEL, "provider": "openai"}])
def test_usage_is_of_a_phase_or_of_a_model(data: dict[str, Any]) -> None:
    assert accept(UsageRecordedV1, data)


@pytest.mark.parametrize(
    "data",
    [
        USAGE,
        {**BY_PHASE, **BY_MODEL},
        {**BY_PHASE, "model": "gpt-4"},
        {**BY_PHASE, "provider": "openai"},
        {**BY_PHASE, "input_tokens": 0},
        {**USAGE, "phase": "nlp"},
        {**USAGE, "units": 1},
        {**USAGE, "model": "gpt-4"},
        {**USAGE, "model": "gpt-4", "input_tokens": 1},
        {**USAGE, "input_tokens": 1, "output_tokens": 1},
    ],
)
def test_usage_of_both_or_of_neither_is_refused(data: dict[str, Any]) -> None:
    assert "either phase and units" in refuse(UsageRecordedV1, data)


def test_tokens_are_not_both_zero() -> None:
    assert "both 0" in refuse(UsageRecordedV1, {**BY_MODEL, "input_tokens": 0})


@pytest.mark.parametrize("tokens", [-1, 1_000_000_001, 2**63, True, "5", 1.0, float("inf")])
def test_tokens_out_of_range(tokens: object) -> None:
    assert "data.input_tokens" in refuse(UsageRecordedV1, {**BY_MODEL, "input_tokens": tokens})


@pytest.mark.parametrize("units", [0, -1, 1_000_000_001, 2**63, True, "5", 1.0, float("nan")])
def test_units_out_of_range(units: object) -> None:
    assert "data.units" in refuse(UsageRecordedV1, {**BY_PHASE, "units": units})


@pytest.mark.parametrize("byok", ["true", 1, 0, []])
def test_byok_is_a_boolean(byok: object) -> None:
    assert "data.byok" in refuse(UsageRecordedV1, {**BY_PHASE, "byok": byok})


def test_finishing_says_how() -> None:
    finished = {"pipeline_id": "run-7", "user_id": "ada", "status": "failed", "usage_events": 0}
    assert accept(PipelineFinishedV1, finished)
    assert "data.status" in refuse(PipelineFinishedV1, {**finished, "status": "done"})
    assert "data.usage_events" in refuse(PipelineFinishedV1, {**finished, "usage_events": -1})


def test_a_completed_phase_may_say_how_many_items_it_covered() -> None:
    completed = {"pipeline_id": "r", "batch_id": "b", "user_id": "ada", "phase": "nlp"}
    assert accept(PipelinePhaseCompletedV1, completed)
    assert accept(PipelinePhaseCompletedV1, {**completed, "items": 3})
    assert "data.items" in refuse(PipelinePhaseCompletedV1, {**completed, "items": 0})


def test_a_registration_needs_only_the_user() -> None:
    assert accept(UserRegisteredV1, {"user_id": "ada"})
    assert "data.email" in refuse(UserRegisteredV1, {"user_id": "ada", "email": "a\x00@b"})


@pytest.mark.parametrize(
    "amount", ["1", True, None, float("nan"), float("inf"), 0.1234567, 1e300, [1]]
)
def test_announced_amounts_are_numbers_with_six_decimals(amount: object) -> None:
    low = {"account": "org:a", "balance": 1, "available": 1, "debt": 0}
    assert accept(CreditsLowV1, {**low, "balance": -0.000001})
    assert "data.balance" in refuse(CreditsLowV1, {**low, "balance": amount})
    assert "data.debt" in refuse(CreditsLowV1, {**low, "debt": -1})


def test_optional_fields_are_left_out_and_nullable_ones_are_kept() -> None:
    assert "org_id" not in PipelineRequestedV1.from_data(REQUEST).to_data()
    denied = PipelineDeniedV1(
        pipeline_id="r", batch_id="b", user_id="ada", org_id=None, phases=[],
        reason="unknown_pipeline", status=422, required_credits=0, available_credits=0,
        considered=[], message="There is no such pipeline.",
    )  # fmt: skip
    assert denied.to_data()["org_id"] is None


def _with_more(value: Any) -> Any:
    """Put a field that nobody knows into every object."""
    if isinstance(value, list):
        return [_with_more(item) for item in value]
    if isinstance(value, dict):
        return {**{key: _with_more(item) for key, item in value.items()}, "of_tomorrow": 1}
    return value


@pytest.mark.parametrize("name", EVENT_TYPES)
def test_what_a_newer_producer_adds_is_dropped(name: str) -> None:
    data = json.loads(encode(examples()[name])[0])["data"]
    parts = {key for key, value in data.items() if isinstance(value, dict)}  # free names in them
    newer = {k: v if k in parts else _with_more(v) for k, v in data.items()} | {"of_tomorrow": 1}
    assert accept(EVENT_TYPES[name], newer) == accept(EVENT_TYPES[name], data)


def test_a_misspelt_field_is_refused_where_an_event_is_made() -> None:
    made: Any = PipelineRequestedV1
    with pytest.raises(ValidationError, match=r"org\n +Extra inputs"):
        made(**REQUEST, org="acme")
    part: Any = ConsideredPayer
    with pytest.raises(ValidationError, match=r"balance\n +Extra inputs"):
        part(payer="org:acme", available=1, balance=1)
