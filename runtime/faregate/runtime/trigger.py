"""Example events to publish: the ones of the contract, with ids of their own and fields to set."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from faregate.events import EVENT_TYPES, INPUT_TOPICS, TOPICS, EventData, InvalidRecord, parse
from faregate.events.envelope import Event
from faregate.events.examples import examples
from faregate.events.publisher import new_event_id
from faregate.runtime.wording import meant

SOURCE = "faregate/trigger"
INBOUND = tuple(type_ for name in INPUT_TOPICS for type_ in TOPICS[name].types)
"""The event types that Faregate reads, so that somebody else publishes them."""

_OWN_IDS = {"pipeline_id": "run", "batch_id": "batch", "usage_id": "usage"}
_LEFT_OUT = {
    "UsageRecordedV1": ("pipeline_id",),  # without a hold: a pipeline is named with --set
    "PipelineRequestedV1": ("expires_at",),
}


class BadField(ValueError):
    """A field that the event does not have, or a value that it cannot have."""


def example(event_type: str, changes: Mapping[str, str]) -> EventData:
    """Make the example of one type with unique ids, the time of now and `changes` applied.

    A value is JSON where the field is no text, else it is taken as written; `null` removes an
    optional field. Raises BadField, with what can be set.
    """
    model = EVENT_TYPES[event_type]
    data = dict(examples()[event_type].data)
    suffix = new_event_id().replace("-", "")[-10:]
    data.update({name: f"{kind}-{suffix}" for name, kind in _OWN_IDS.items() if name in data})
    if "occurred_at" in data:
        data["occurred_at"] = datetime.now(UTC).isoformat()
    for name in _LEFT_OUT.get(event_type, ()):
        data.pop(name, None)
    properties = model.model_json_schema()["properties"]
    for name, text in changes.items():
        if name not in properties:
            known = f"it has: {', '.join(properties)}{meant(name, properties)}"
            raise BadField(f"{event_type} has no field {name!r}; {known}")
        data[name] = _value(text, properties[name])
    if "model" in changes and "phase" not in changes:
        data = {"input_tokens": 1000, "output_tokens": 500} | _without(data, ("phase", "units"))
    try:
        return parse(Event("example", SOURCE, event_type, data))
    except InvalidRecord as error:
        raise BadField(f"not a valid {event_type}: {error.message}") from error


def _without(data: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in data.items() if name not in names}


def _value(text: str, schema: Mapping[str, Any]) -> Any:
    kinds = [schema, *schema.get("anyOf", ())]
    if text != "null" and any(kind.get("type") == "string" for kind in kinds):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text
