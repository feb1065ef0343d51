"""Which events an expectation means, and which came near: pure functions over what was heard."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from faregate.events import EVENT_TYPES, EventData
from faregate.testing.hearing import Heard

_SHOWN = 5


def event_type(wanted: type[EventData] | str) -> type[EventData]:
    """Give the model of an event type. Raises ValueError with what there is."""
    name = wanted if isinstance(wanted, str) else wanted.__name__
    if name not in EVENT_TYPES:
        raise ValueError(f"{name} is no event type; there are: {', '.join(EVENT_TYPES)}")
    return EVENT_TYPES[name]


def check_fields(model: type[EventData], fields: Mapping[str, Any]) -> None:
    """Raise ValueError for a field that events of this type do not have."""
    unknown = [name for name in fields if name not in model.model_fields]
    if unknown:
        has = ", ".join(model.model_fields)
        raise ValueError(f"{model.__name__} has no {', '.join(unknown)}; it has: {has}")


def differences(data: EventData, fields: Mapping[str, Any]) -> list[str]:
    """Say which fields are not as wanted. A wanted value may be a function that tells."""
    wrong = []
    for name, wanted in fields.items():
        actual = getattr(data, name)
        if callable(wanted):
            if not wanted(actual):
                wrong.append(f"{name} is {actual!r}, which {_name(wanted)} refuses")
        elif actual != wanted:
            wrong.append(f"{name} is {actual!r}, not {wanted!r}")
    return wrong


def matches(heard: Heard, model: type[EventData], fields: Mapping[str, Any]) -> bool:
    """Tell whether this is what is meant, and was not returned before."""
    if heard.taken or not isinstance(heard.data, model) or _is_dead(heard):
        return False
    return not differences(heard.data, fields)


def near_misses(
    heard: Sequence[Heard], model: type[EventData], fields: Mapping[str, Any], now: float
) -> list[str]:
    """Say what was heard instead.

    The same type with other fields, nearest first; dead letters; how many of each other type.
    """
    same = [h for h in heard if isinstance(h.data, model) and not _is_dead(h)]
    ranked = sorted(same, key=lambda h: len(differences(_data(h), fields)))
    lines = [f"{model.__name__} {now - h.at:.1f} s ago: {_why(h, fields)}" for h in ranked[:_SHOWN]]
    if len(ranked) > _SHOWN:
        lines.append(f"{model.__name__}: {len(ranked) - _SHOWN} more that differ as much or more")
    lines += [dead_letter(h) for h in heard if _is_dead(h)]
    others = Counter(
        h.event.type if h.event else f"a record on {h.topic} that is no event"
        for h in heard
        if h not in same and not _is_dead(h)
    )
    if others:
        lines.append("also heard: " + ", ".join(f"{n} {name}" for name, n in others.items()))
    return lines or ["nothing at all was heard since the test began"]


def dead_letter(heard: Heard) -> str:
    """Say what a dead letter is and why it is one."""
    what = heard.event.type if heard.event else "a record"
    header = heard.header
    reason = f"{header.get('faregate-error')}: {header.get('faregate-message')}"
    return f"dead letter on {heard.topic}: {what}: {reason}"


def _why(heard: Heard, fields: Mapping[str, Any]) -> str:
    wrong = differences(_data(heard), fields)
    if wrong:
        return "; ".join(wrong)
    return "matches, but an earlier expectation has returned it"


def _data(heard: Heard) -> EventData:
    if heard.data is None:
        raise TypeError(f"no event was read from {heard.record}")
    return heard.data


def _is_dead(heard: Heard) -> bool:
    return heard.topic.endswith(".dlq")


def _name(function: Any) -> str:
    return str(getattr(function, "__name__", function))
