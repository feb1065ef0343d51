"""The base of every event payload."""

from typing import Any, Self

from pydantic import BaseModel, ConfigDict


class EventData(BaseModel):
    """The `data` of one event type; the class name is the CloudEvents `type`.

    Strict: a number in a string or a boolean for a number is an error. Unknown fields are
    accepted and dropped, so that a newer producer can be read. For an optional field null means
    absent. Validators are built when they are first needed (`defer_build`): a process knows thirty
    types and meets a few, a command mostly none.
    """

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, defer_build=True)

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
        """Validate a JSON object; raises pydantic.ValidationError (`codec.parse` wraps it)."""
        return cls.model_validate(data)
