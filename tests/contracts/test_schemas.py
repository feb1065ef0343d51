"""The committed contract: what is generated is committed, and every example obeys it."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator, FormatChecker

from faregate.events import EVENT_TYPES, INPUT_TOPICS, TOPIC_OF_TYPE, TOPICS, decode, dlq_of, parse
from faregate.events.asyncapi import asyncapi_document
from faregate.events.schemagen import drift, generate, main, write
from faregate.events.yamltext import to_yaml

SCHEMAS = Path(__file__).parents[2] / "schemas"


def schema_path(name: str) -> Path:
    return SCHEMAS / TOPIC_OF_TYPE[name] / f"{name}.schema.json"


def validator(name: str) -> Draft202012Validator:
    schema: Any = json.loads(schema_path(name).read_text("utf-8"))
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema, format_checker=FormatChecker())


def example(name: str) -> bytes:
    return (SCHEMAS / "examples" / TOPIC_OF_TYPE[name] / f"{name}.json").read_bytes()


@pytest.mark.parametrize("name", EVENT_TYPES)
def test_the_example_obeys_its_schema_and_its_model(name: str) -> None:
    event = decode(example(name), [])
    assert event.type == name
    validator(name).validate(event.data)
    assert parse(event).to_data() == event.data


@pytest.mark.parametrize("name", EVENT_TYPES)
def test_the_schema_wants_the_same_fields_as_the_model(name: str) -> None:
    data = decode(example(name), []).data
    check = validator(name)
    for field, info in EVENT_TYPES[name].model_fields.items():
        without = {key: value for key, value in data.items() if key != field}
        if info.is_required():
            assert not check.is_valid(without), f"{field} should be required"
    assert check.is_valid({**data, "a field of tomorrow": {}}), "unknown fields are accepted"


BY_PHASE = {"phase": "nlp", "units": 1}
BY_MODEL = {"model": "gpt-4", "input_tokens": 1, "output_tokens": 0}


@pytest.mark.parametrize(
    ("form", "valid"),
    [
        (BY_PHASE, True),
        (BY_MODEL, True),
        ({**BY_MODEL, "provider": "openai", "phase": None, "units": None}, True),
        ({**BY_PHASE, "byok": None, "model": None, "input_tokens": None}, True),
        ({}, False),
        ({**BY_PHASE, **BY_MODEL}, False),
        ({**BY_PHASE, "provider": "openai"}, False),
        ({"phase": "nlp"}, False),
        ({**BY_MODEL, "input_tokens": 0}, False),
        ({**BY_MODEL, "input_tokens": "1"}, False),
        ({"phase": "a\u202e", "units": 1}, False),
        ({"phase": " a", "units": 1}, False),
    ],
)
def test_schema_and_model_of_usage_agree(form: dict[str, Any], *, valid: bool) -> None:
    data = {"usage_id": "u", "user_id": "ada", "occurred_at": "2025-06-01T12:00:00Z", **form}
    assert validator("UsageRecordedV1").is_valid(data) == valid
    event = json.dumps(
        {"specversion": "1.0", "id": "e", "source": "s", "type": "UsageRecordedV1", "data": data}
    )
    try:
        accepted = bool(parse(decode(event.encode(), [])))
    except ValueError:
        accepted = False
    assert accepted == valid


def test_what_is_committed_is_what_is_generated() -> None:
    assert drift(SCHEMAS, generate()) == []


def test_drift_names_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, generate())
    arguments = ["--check", "--schemas", str(tmp_path)]
    assert main(arguments) == 0
    (tmp_path / "usage.recorded" / "UsageRecordedV1.schema.json").write_text("{}")
    (tmp_path / "examples" / "usage.recorded" / "UsageRecordedV1.json").unlink()
    (tmp_path / "usage.recorded" / "UsageRecordedV0.schema.json").write_text("{}")
    assert main(arguments) == 1
    said = capsys.readouterr().err
    assert "differs: usage.recorded/UsageRecordedV1.schema.json" in said
    assert "missing: examples/usage.recorded/UsageRecordedV1.json" in said
    assert "stale: usage.recorded/UsageRecordedV0.schema.json" in said
    assert main(arguments[1:]) == 0
    assert main(arguments) == 0


def test_the_asyncapi_document_is_what_the_yaml_says() -> None:
    text = (SCHEMAS / "asyncapi.yaml").read_text("utf-8")
    assert yaml.safe_load(text) == asyncapi_document()


def test_the_asyncapi_document_has_every_topic_and_type() -> None:
    document = yaml.safe_load((SCHEMAS / "asyncapi.yaml").read_text("utf-8"))
    assert document["asyncapi"] == "3.0.0"
    channels, messages = document["channels"], document["components"]["messages"]
    assert set(channels) == {*TOPICS, *(dlq_of(name) for name in INPUT_TOPICS)}
    for topic in TOPICS.values():
        assert set(channels[topic.name]["messages"]) == set(topic.types)
        operations = [
            operation
            for operation in document["operations"].values()
            if operation["channel"]["$ref"] == f"#/channels/{topic.name}"
        ]
        assert [o["action"] for o in operations] == [
            "receive" if topic.name in INPUT_TOPICS else "send"
        ]
    for name in EVENT_TYPES:
        message = messages[name]
        assert (SCHEMAS / message["payload"]["properties"]["data"]["$ref"]).is_file()
        assert message["bindings"]["kafka"]["key"]["description"]
        assert message["examples"][0]["payload"]["type"] == name


@pytest.mark.parametrize(
    "value",
    [
        {},
        [],
        {"a": [], "b": {}, "c": None},
        {"yes": "no", "1": "1", "x: y": "a: b", "#": "# c", "-": "- d", "null": "~"},
        [[1, [2.5]], [{"a": [True, {"b": "x\n\ty\u2028\\"}]}], " blank ", "", "1.0", "2025-01-01"],
    ],
)
def test_yaml_says_what_it_was_given(value: Any) -> None:
    assert yaml.safe_load(to_yaml(value)) == value
