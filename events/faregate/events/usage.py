"""Payload of `usage.recorded`: something was used and is to be paid."""

from typing import Any, Self

from pydantic import ConfigDict, model_validator

from faregate.events.data import EventData
from faregate.events.fields import Flag, Id, Timestamp, Tokens, Units

_BOTH_FORMS = (
    "send either phase and units, or model, input_tokens and output_tokens (provider optional)"
)
_NONE_OF_IT = (None, None, None, None)
# The rule of `_one_form` for readers of the schema; null counts as absent there too.
_FORMS: dict[str, Any] = {
    "oneOf": [
        {
            "title": "phase",
            "required": ["phase", "units"],
            "properties": {
                "phase": {"type": "string"},
                "units": {"type": "integer"},
                "provider": {"type": "null"},
                "model": {"type": "null"},
                "input_tokens": {"type": "null"},
                "output_tokens": {"type": "null"},
            },
        },
        {
            "title": "model",
            "required": ["model", "input_tokens", "output_tokens"],
            "properties": {
                "phase": {"type": "null"},
                "units": {"type": "null"},
                "model": {"type": "string"},
                "input_tokens": {"type": "integer"},
                "output_tokens": {"type": "integer"},
            },
            "anyOf": [
                {"properties": {"input_tokens": {"minimum": 1}}},
                {"properties": {"output_tokens": {"minimum": 1}}},
            ],
        },
    ]
}


class UsageRecordedV1(EventData):
    """Usage that has happened: units of a phase, or tokens of a model.

    `usage_id` is unique per source. `occurred_at` chooses the price where no hold pins one.
    With `byok` (bring your own key) the caller paid the provider and the entry is 0.
    """

    model_config = ConfigDict(json_schema_extra=_FORMS)

    usage_id: Id
    user_id: Id
    org_id: Id | None = None
    pipeline_id: Id | None = None
    occurred_at: Timestamp
    byok: Flag = False
    phase: Id | None = None
    units: Units | None = None
    provider: Id | None = None
    model: Id | None = None
    input_tokens: Tokens | None = None
    output_tokens: Tokens | None = None

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        tokens = (self.input_tokens, self.output_tokens)
        if self.phase is not None or self.units is not None:
            other = (self.provider, self.model, *tokens)
            if self.phase is None or self.units is None or other != _NONE_OF_IT:
                raise ValueError(_BOTH_FORMS)
        elif self.model is None or None in tokens:
            raise ValueError(_BOTH_FORMS)
        elif not any(tokens):
            raise ValueError("input_tokens and output_tokens are both 0: nothing was used")
        return self
