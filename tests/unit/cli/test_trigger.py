"""Example events: unique, valid, and what was set is in them."""

from __future__ import annotations

import pytest

from faregate.runtime.trigger import INBOUND, BadField, example


@pytest.mark.parametrize("event_type", INBOUND)
def test_every_inbound_type_has_an_example_with_ids_of_its_own(event_type: str) -> None:
    first, second = example(event_type, {}).to_data(), example(event_type, {}).to_data()
    for name in {"pipeline_id", "batch_id", "usage_id"} & first.keys():
        assert first[name] != second[name]


def test_text_stays_text_and_everything_else_is_json() -> None:
    changes = {"user_id": "42", "items": "7", "phases": '["nlp"]', "org_id": "null"}
    data = example("PipelineRequestedV1", changes).to_data()
    assert (data["user_id"], data["items"], data["phases"]) == ("42", 7, ["nlp"])
    assert "org_id" not in data


def test_usage_of_a_model_takes_the_place_of_usage_of_a_phase() -> None:
    data = example("UsageRecordedV1", {"model": "gpt-4o-mini", "input_tokens": "12"}).to_data()
    assert (data["input_tokens"], data["output_tokens"]) == (12, 500)
    assert "phase" not in data


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("items", "ten", "data.items"),
        ("items", "0", "data.items"),
        ("batch_id", "", "data.batch_id"),
    ],
)
def test_a_value_that_the_field_cannot_have_is_named(field: str, value: str, said: str) -> None:
    with pytest.raises(BadField, match=said):
        example("PipelineRequestedV1", {field: value})
