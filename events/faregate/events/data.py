"""The base of every event payload."""

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema


class EventPart(BaseModel):
    """What the `data` of an event, or an object in it, has in common.

    Strict: a number in a string or a boolean for a number is an error, and so is a field that the
    class does not have: an `org` where `org_id` is meant would make the user pay. What is read is
    taken otherwise, see `from_data`. For an optional field null means absent. Validators are built
    when they are first needed (`defer_build`): a process knows thirty types and meets a few, a
    command mostly none.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, defer_build=True)

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Leave unknown fields open in the schema: it is for readers too."""
        schema = handler(core_schema)
        handler.resolve_ref_schema(schema).pop("additionalProperties", None)
        return schema


class EventData(EventPart):
    """The `data` of one event type; the class name is the CloudEvents `type`."""

    def to_data(self) -> dict[str, Any]:
        """Give the JSON object for the wire; optional fields that are None are left out."""
        fields = type(self).model_fields
        return {
            name: value
            for name, value in self.model_dump(mode="json").items()
            if value is not None or fields[name].is_required()
        }

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> Self:
        """Validate a JSON object; raises pydantic.ValidationError (`codec.parse` wraps it).

        Unknown fields are accepted and dropped, so that a newer producer can be read.
        """
        return cls.model_validate(data, extra="ignore")
