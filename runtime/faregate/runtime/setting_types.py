"""Settings that are amounts of credits: read as strictly as an amount from anywhere else."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator
from pydantic.fields import FieldInfo
from pydantic_settings import EnvSettingsSource, ForceDecode

from faregate.events.amounts import parse_credits, to_credits
from faregate.events.fields import ID_MAX_CHARS, ID_PATTERN, ID_RULE


class Environment(EnvSettingsSource):
    """The environment: amounts are JSON; what should be and is not is left to the field to refuse."""

    def field_is_complex(self, field: FieldInfo) -> bool:
        """Tell whether a field is written as JSON."""
        return ForceDecode in field.metadata or super().field_is_complex(field)

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        """Read a number or a map as JSON."""
        try:
            read = super().decode_complex_value(field_name, field, value)
        except ValueError:
            return value
        return value if read is None else read  # a null is not the default


def _amount(value: object) -> float:
    return to_credits(parse_credits(value, allow_zero=True))


def _amounts(value: object) -> dict[str, float]:
    if not isinstance(value, dict):
        raise ValueError('give credits by name, such as {"a": 5, "b": 2.5}')  # noqa: TRY004 - pydantic
    return {name: _named(name, amount) for name, amount in value.items()}


def _named(name: str, amount: object) -> float:
    if len(name) > ID_MAX_CHARS or not re.search(ID_PATTERN, name):
        raise ValueError(f"{name!r} is not a name: write {ID_RULE}")
    try:
        return to_credits(parse_credits(amount))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


Amount = Annotated[float, ForceDecode, BeforeValidator(_amount)]
"""Credits, 0 or more: a JSON or TOML number with at most 6 decimals."""

Amounts = Annotated[dict[str, float], BeforeValidator(_amounts)]
"""Credits by name, each more than 0: a TOML table, or a JSON object in the environment."""
