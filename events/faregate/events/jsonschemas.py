"""The JSON Schema (2020-12) of each event type, made from its model."""

from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from faregate.events.fields import ID_RULE, Id
from faregate.events.topics import TOPIC_OF_TYPE
from faregate.events.types import EVENT_TYPES

DIALECT = "https://json-schema.org/draft/2020-12/schema"


class _Plain(GenerateJsonSchema):
    """Leaves out the titles that only repeat a field's name."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Never."""
        del schema
        return False


def schema_of(type_name: str) -> dict[str, Any]:
    """Give the schema of the `data` of one event type."""
    model = EVENT_TYPES[type_name]
    body = model.model_json_schema(schema_generator=_Plain, ref_template="#/$defs/{model}")
    body.pop("title", None)
    definitions = body.pop("$defs", {})
    shared = _share_ids({"properties": body.pop("properties"), **body})
    if _holds_ref(shared, "#/$defs/Id"):
        definitions["Id"] = {"description": f"An identifier: {ID_RULE}.", **_ID}
    return {
        "$schema": DIALECT,
        "$id": f"urn:faregate:{TOPIC_OF_TYPE[type_name]}:{type_name}",
        "title": type_name,
        "description": shared.pop("description"),
        "type": shared.pop("type"),
        **shared,
        **({"$defs": definitions} if definitions else {}),
    }


def resolve(node: Any, root: dict[str, Any]) -> Any:
    """Follow a local reference ("#/$defs/Id") once; other nodes are given back as they are."""
    if isinstance(node, dict) and "$ref" in node:
        target: Any = root
        for part in node["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        return {**target, **{key: value for key, value in node.items() if key != "$ref"}}
    return node


_ID: dict[str, Any] = TypeAdapter(Id).json_schema(schema_generator=_Plain)


def _share_ids(node: Any) -> Any:
    """Replace each copy of the identifier's schema by a reference, so that people can read it."""
    if isinstance(node, list):
        return [_share_ids(item) for item in node]
    if not isinstance(node, dict):
        return node
    if _ID.items() <= node.items():
        return {"$ref": "#/$defs/Id", **{k: v for k, v in node.items() if k not in _ID}}
    return {key: _share_ids(value) for key, value in node.items()}


def _holds_ref(node: Any, reference: str) -> bool:
    if isinstance(node, list):
        return any(_holds_ref(item, reference) for item in node)
    if isinstance(node, dict):
        return node.get("$ref") == reference or any(
            _holds_ref(value, reference) for value in node.values()
        )
    return False
