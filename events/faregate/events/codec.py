"""Kafka record ⇄ event: CloudEvents 1.0, structured or binary in, structured out.

Rules: CloudEvents 1.0 core and Kafka protocol binding; limits on identifiers are ours, because
they become keys in a database. This is the hottest code of the SDK, hence the flat style.
"""

from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from math import isfinite
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails, from_json, to_json

from faregate.events.data import EventData
from faregate.events.envelope import Event
from faregate.events.fields import ID_RULE, find_unsafe, parse_time
from faregate.events.tracing import readable_state
from faregate.events.types import EVENT_TYPES

CONTENT_TYPE = "application/cloudevents+json; charset=UTF-8"
SPEC_VERSION = "1.0"
ATTRIBUTE_MAX_CHARS = 256
MESSAGE_MAX_CHARS = 500
_ERRORS_SHOWN = 3
_STRUCTURED = "application/cloudevents+json"
_JSON = "application/json"
_CONTENT_TYPE_HEADER = ("content-type", CONTENT_TYPE.encode())


class InvalidRecord(ValueError):
    """A record that can never be processed, however often it is retried.

    `code` is one of empty_record, unsupported_content_type, invalid_json, invalid_envelope,
    unknown_type, invalid_data. `message` is printable, at most 500 characters, and quotes no
    payload.
    """

    def __init__(self, code: str, message: str) -> None:
        text = message[: MESSAGE_MAX_CHARS + 1]
        if not text.isprintable():
            text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
        if len(text) > MESSAGE_MAX_CHARS:
            text = text[: MESSAGE_MAX_CHARS - 1] + "\N{HORIZONTAL ELLIPSIS}"
        self.code = code
        self.message = text
        super().__init__(f"{code}: {text}")

    def __reduce__(self) -> tuple[type["InvalidRecord"], tuple[str, str]]:
        """Survive pickling between processes although __init__ takes two arguments."""
        return type(self), (self.code, self.message)


def decode(value: bytes | None, headers: Sequence[tuple[str, bytes]]) -> Event:
    """Read one Kafka record as an event; `data` is not validated yet.

    Structured when the content type is application/cloudevents+json or no `ce_` header is there,
    binary otherwise. Raises InvalidRecord.
    """
    content_type = b""
    traceparent = tracestate = None
    binary: dict[str, Any] = {}
    for name, raw in headers:
        if name.startswith("ce_"):
            binary[name[3:]] = _header_text(name, raw)
        elif name == "traceparent":
            traceparent = raw
        elif name == "tracestate":
            tracestate = raw
        elif name.lower() == "content-type":
            content_type = raw or b""
    if not value:
        raise InvalidRecord("empty_record", "the record has no value; send a JSON object")
    if _is_structured(content_type, has_attributes=bool(binary)):
        attributes, data = _structured(value)
    else:
        attributes, data = binary, _json_object("the value", value)
    if not _all_finite(data):
        raise InvalidRecord("invalid_data", "data holds a number that is too large for a double")
    if traceparent is not None and attributes.get("traceparent") is None:
        attributes["traceparent"] = _header_text("traceparent", traceparent)
    return _event(attributes, data, tracestate)


def encode(event: Event) -> tuple[bytes, list[tuple[str, bytes]]]:
    """Write an event as a structured CloudEvent: the Kafka value and its headers.

    `event.data` must be JSON-ready; datetimes are written as RFC 3339. Raises ValueError for
    what JSON cannot hold: NaN, infinities, lone surrogates, naive times.
    """
    body: dict[str, Any] = {
        "specversion": SPEC_VERSION,
        "id": event.id,
        "source": event.source,
        "type": event.type,
        "datacontenttype": _JSON,
    }
    if event.time is not None:
        body["time"] = parse_time(event.time)
    for name in ("subject", "correlationid", "causationid", "traceparent"):
        if (text := getattr(event, name)) is not None:
            body[name] = text
    if not _all_finite(event.data):
        raise ValueError("data holds NaN or an infinity, which JSON cannot carry")
    body["data"] = event.data
    headers = [_CONTENT_TYPE_HEADER]
    if event.traceparent is not None:
        headers.append(("traceparent", event.traceparent.encode()))
        if event.tracestate is not None:
            headers.append(("tracestate", event.tracestate.encode()))
    return to_json(body), headers


def parse(event: Event) -> EventData:
    """Validate `event.data` against the model of its type; raises InvalidRecord."""
    model = EVENT_TYPES.get(event.type)
    if model is None:
        known = ", ".join(EVENT_TYPES)
        raise InvalidRecord("unknown_type", f"unknown type {event.type[:80]!r}; known: {known}")
    try:
        return model.from_data(event.data)
    except ValidationError as error:
        raise InvalidRecord("invalid_data", _describe(error)) from None


_REQUIRED = {"specversion", "id", "source", "type"}
_NO_EVENT = (
    "this is no CloudEvent: specversion, id, source, type and data are missing; publish with "
    "faregate.events.Publisher, or put the attributes in ce_ headers"
)


def _structured(value: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    attributes = _json_object("the record", value)
    if "data_base64" in attributes:
        raise InvalidRecord("invalid_envelope", "send data as JSON in data, not data_base64")
    inner = attributes.get("datacontenttype")
    if inner is not None and inner != _JSON:
        media_type = _media_type(_text("datacontenttype", inner))
        if not _is_json(media_type):
            raise _unsupported("datacontenttype", media_type)
    if not attributes.keys() & _REQUIRED:
        raise InvalidRecord("invalid_envelope", _NO_EVENT)
    data = attributes.get("data")
    if data is None:
        raise InvalidRecord("invalid_envelope", "data is missing")
    if type(data) is not dict:
        raise InvalidRecord("invalid_envelope", "data must be a JSON object")
    return attributes, data


def _event(attributes: dict[str, Any], data: dict[str, Any], tracestate: bytes | None) -> Event:
    if attributes.get("specversion") != SPEC_VERSION:
        raise InvalidRecord("invalid_envelope", 'specversion must be the string "1.0"')
    moment = attributes.get("time")
    return Event(
        _required(attributes, "id"),
        _required(attributes, "source"),
        _required(attributes, "type"),
        data,
        None if moment is None else _time(moment),
        _optional(attributes, "subject"),
        _optional(attributes, "correlationid"),
        _optional(attributes, "causationid"),
        _optional(attributes, "traceparent"),
        readable_state(tracestate.decode("latin-1")) if tracestate else None,
    )


def _required(attributes: dict[str, Any], name: str) -> str:
    if name not in attributes:
        raise InvalidRecord("invalid_envelope", f"{name} is missing")
    return _text(name, attributes[name])


def _optional(attributes: dict[str, Any], name: str) -> str | None:
    value = attributes.get(name)
    return None if value is None else _text(name, value)


def _text(name: str, value: object) -> str:
    # isprintable is the quick answer for nearly every identifier; the search decides the rest.
    if type(value) is not str or not 0 < len(value) <= ATTRIBUTE_MAX_CHARS:
        limit = f"a string of 1 to {ATTRIBUTE_MAX_CHARS} characters"
        raise InvalidRecord("invalid_envelope", f"{name} must be {limit}")
    if not value.isprintable() and find_unsafe(value):
        raise InvalidRecord(
            "invalid_envelope", f"{name} must not hold control or invisible characters"
        )
    return value


def _time(value: object) -> datetime:
    try:
        return parse_time(value)
    except ValueError as error:
        raise InvalidRecord("invalid_envelope", f"time: {error}") from None


def _header_text(name: str, raw: bytes | None) -> str:
    try:
        return (raw or b"").decode()
    except UnicodeDecodeError:
        raise InvalidRecord("invalid_envelope", f"header {name[:80]} is not UTF-8") from None


@lru_cache(maxsize=32)
def _is_structured(content_type: bytes, *, has_attributes: bool) -> bool:
    """Choose the mode by the content-type header; InvalidRecord for what is not JSON."""
    media_type = _media_type(content_type.decode("latin-1"))
    if media_type == _STRUCTURED:
        return True
    if media_type and not _is_json(media_type):
        raise _unsupported("the content-type header", media_type)
    return not has_attributes


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _is_json(media_type: str) -> bool:
    """Tell whether data of this type is JSON; other CloudEvents formats (batch, avro) are not."""
    if media_type.startswith("application/cloudevents"):
        return False
    return media_type in {_JSON, "text/json"} or media_type.endswith("+json")


def _unsupported(where: str, media_type: str) -> InvalidRecord:
    text = f"{where} is {media_type[:80]!r}; send {_STRUCTURED}, or {_JSON} with ce_ headers"
    return InvalidRecord("unsupported_content_type", text)


def _json_object(what: str, value: bytes) -> dict[str, Any]:
    try:
        parsed = from_json(value, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidRecord("invalid_json", f"{what} is not JSON in UTF-8: {error}") from None
    if type(parsed) is not dict:
        raise InvalidRecord("invalid_envelope", f"{what} must be a JSON object")
    return parsed


def _all_finite(value: Any) -> bool:
    """Tell whether no float below `value` is infinite: the parser reads 1e400 as one.

    The parser bounds the depth to 200, so the recursion is safe.
    """
    for item in value.values() if type(value) is dict else value:
        kind = type(item)
        if kind is float:
            if not isfinite(item):
                return False
        elif (kind is dict or kind is list) and not _all_finite(item):
            return False
    return True


def _describe(error: ValidationError) -> str:
    details = error.errors(include_url=False, include_input=False)
    shown = "; ".join(_line(detail) for detail in details[:_ERRORS_SHOWN])
    more = len(details) - _ERRORS_SHOWN
    return f"{shown}; and {more} more" if more > 0 else shown


def _line(detail: ErrorDetails) -> str:
    where = ".".join(["data", *(str(part) for part in detail["loc"])])
    if detail["type"] in {"string_pattern_mismatch", "string_unicode"}:
        return f"{where}: must be {ID_RULE}"
    return f"{where}: {detail['msg'].removeprefix('Value error, ')}"
