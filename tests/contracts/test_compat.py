"""A breaking change of an event is found; a harmless one is not."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from faregate.events import EVENT_TYPES
from faregate.events.compat import breaking_changes, check, main, release
from faregate.events.jsonschemas import schema_of

SCHEMAS = Path(__file__).parents[2] / "schemas"
Change = Callable[[dict[str, Any]], object]


def changed(name: str, change: Change) -> list[str]:
    """What the check says when today's schema of a type is changed like this."""
    old = schema_of(name)
    new = copy.deepcopy(old)
    change(new)
    assert new != old
    return breaking_changes(old, new)


def test_nothing_that_was_released_is_broken() -> None:
    assert check(SCHEMAS) == []


def test_every_type_has_been_recorded() -> None:
    assert {path.parent.name for path in SCHEMAS.glob("released/*/1.schema.json")} == {*EVENT_TYPES}


@pytest.mark.parametrize("name", EVENT_TYPES)
def test_a_schema_is_compatible_with_itself(name: str) -> None:
    assert breaking_changes(schema_of(name), schema_of(name)) == []


BREAKS: dict[str, tuple[str, Change, str]] = {
    "an optional field becomes required": (
        "PipelineRequestedV1",
        lambda s: s["required"].append("org_id"),
        "org_id is required now",
    ),
    "a new field is required": (
        "PipelineRequestedV1",
        lambda s: (s["required"].append("tenant"), s["properties"].update(tenant={})),
        "tenant is required now",
    ),
    "a type changes": (
        "PipelineRequestedV1",
        lambda s: s["properties"].update(items={"type": "string"}),
        "data.items: the type was integer, is string",
    ),
    "a number becomes an integer": (
        "CreditsLowV1",
        lambda s: s["properties"]["balance"].update(type="integer"),
        "data.balance: the type",
    ),
    "null is refused": (
        "PipelineRequestedV1",
        lambda s: s["properties"].update(org_id={"$ref": "#/$defs/Id"}),
        "data.org_id: the type was null",
    ),
    "a range gets narrower above": (
        "PipelineRequestedV1",
        lambda s: s["properties"]["items"].update(maximum=1000),
        "data.items: maximum was 1000000, is 1000",
    ),
    "a range gets narrower below": (
        "PipelineRequestedV1",
        lambda s: s["properties"]["items"].update(minimum=2),
        "data.items: minimum was 1, is 2",
    ),
    "a range inside of an optional field gets narrower": (
        "UsageRecordedV1",
        lambda s: s["properties"]["units"]["anyOf"][0].update(maximum=5),
        "data.units: maximum",
    ),
    "identifiers get shorter": (
        "PipelineRequestedV1",
        lambda s: s["$defs"]["Id"].update(maxLength=20),
        "maxLength was 200, is 20",
    ),
    "identifiers get another pattern": (
        "PipelineRequestedV1",
        lambda s: s["$defs"]["Id"].update(pattern="^[a-z]+$"),
        "pattern is new or another one",
    ),
    "a value of an enum goes": (
        "PipelineFinishedV1",
        lambda s: s["properties"]["status"]["enum"].remove("cancelled"),
        "data.status: the value cancelled is no longer allowed",
    ),
    "an open field becomes an enum": (
        "PipelineInitiatedV1",
        lambda s: s["properties"]["payer"].update(enum=["org"]),
        "data.payer: only some values",
    ),
    "elements of a list change": (
        "PipelineInitiatedV1",
        lambda s: s["properties"]["phases"].update(items={"type": "integer"}),
        "data.phases[]: the type was string, is integer",
    ),
    "a field of an element becomes required": (
        "PipelineDeniedV1",
        lambda s: (
            s["$defs"]["ConsideredPayer"]["required"].append("held"),
            s["$defs"]["ConsideredPayer"]["properties"].update(held={}),
        ),
        "data.considered[].held is required now",
    ),
    "unknown fields are refused": (
        "PipelineRequestedV1",
        lambda s: s.update(additionalProperties=False),
        "unknown fields are refused now",
    ),
    "a form of usage goes": (
        "UsageRecordedV1",
        lambda s: s["oneOf"].pop(0),
        "data",
    ),
    "a form of usage wants more": (
        "UsageRecordedV1",
        lambda s: s["oneOf"][1]["required"].append("provider"),
        "provider is required now",
    ),
    "a form of usage excludes what it took": (
        "UsageRecordedV1",
        lambda s: s["oneOf"][0]["properties"].update(byok={"type": "null"}),
        "data.byok: the type",
    ),
    "the event moves to another topic": (
        "UsageRecordedV1",
        lambda s: s.update({"$id": "urn:faregate:usage.other:UsageRecordedV1"}),
        "another topic",
    ),
}


@pytest.mark.parametrize("planted", BREAKS)
def test_a_planted_break_is_named(planted: str) -> None:
    name, change, expected = BREAKS[planted]
    found = changed(name, change)
    assert any(expected in line for line in found), found


HARMLESS: dict[str, tuple[str, Change]] = {
    "a new optional field": (
        "UsageRecordedV1",
        lambda s: s["properties"].update(region={"type": "string"}),
    ),
    "a required field becomes optional": (
        "PipelineRequestedV1",
        lambda s: s["required"].remove("batch_id"),
    ),
    "a field goes": ("PipelineRequestedV1", lambda s: s["properties"].pop("expires_at")),
    "a wider range": (
        "PipelineRequestedV1",
        lambda s: s["properties"]["items"].update(maximum=10**9),
    ),
    "an integer becomes a number": (
        "PipelineRequestedV1",
        lambda s: s["properties"]["items"].update(type="number"),
    ),
    "a new value of an enum": (
        "PipelineFinishedV1",
        lambda s: s["properties"]["status"]["enum"].append("paused"),
    ),
    "null is allowed too": (
        "PipelineRequestedV1",
        lambda s: s["properties"].update(items={"anyOf": [{"type": "integer"}, {"type": "null"}]}),
    ),
    "a third form of usage": (
        "UsageRecordedV1",
        lambda s: s["oneOf"].append({"required": ["seconds"]}),
    ),
    "other words": ("UsageRecordedV1", lambda s: s.update(description="Used.")),
}


@pytest.mark.parametrize("planted", HARMLESS)
def test_a_harmless_change_passes(planted: str) -> None:
    name, change = HARMLESS[planted]
    assert changed(name, change) == []


def test_every_release_counts_and_not_only_the_last(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--release", "--schemas", str(tmp_path)]) == 0
    assert release(tmp_path) == [], "nothing changed, so there is nothing to record"
    first = tmp_path / "released" / "UsageRecordedV1" / "1.schema.json"
    older = json.loads(first.read_text("utf-8"))
    (first.parent / "2.schema.json").write_text(first.read_text("utf-8"))
    older["properties"]["usage_id"] = {"type": "integer"}
    first.write_text(json.dumps(older))
    assert main(["--schemas", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert "UsageRecordedV1 (against release 1): data.usage_id: the type was integer" in said


def test_a_type_that_is_gone_is_a_break(tmp_path: Path) -> None:
    path = tmp_path / "released" / "UsageRecordedV0" / "1.schema.json"
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    assert check(tmp_path) == ["UsageRecordedV0: the type is gone"]
