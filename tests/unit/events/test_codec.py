"""The codec: both CloudEvents modes in, one out, and everything odd named instead of raised."""

import json
import pickle
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from faregate.events import Event, InvalidRecord, PipelineRequestedV1, decode, encode, parse
from faregate.events.examples import examples

STRUCTURED = [("content-type", b"application/cloudevents+json; charset=UTF-8")]
REQUEST = {
    "pipeline_id": "run-7",
    "pipeline": "cj_assessment",
    "user_id": "ada",
    "batch_id": "class-9b",
    "items": 10,
}
ENVELOPE = {
    "specversion": "1.0",
    "id": "e-1",
    "source": "/essays",
    "type": "PipelineRequestedV1",
    "data": REQUEST,
}
BINARY = [
    ("ce_specversion", b"1.0"),
    ("ce_id", b"e-1"),
    ("ce_source", b"/essays"),
    ("ce_type", b"PipelineRequestedV1"),
    ("content-type", b"application/json"),
]


def record(**changes: Any) -> bytes:
    """A structured record with some attributes replaced; None removes one."""
    merged = {**ENVELOPE, **changes}
    return json.dumps({name: value for name, value in merged.items() if value is not None}).encode()


def refusal(value: bytes | None, headers: list[tuple[str, bytes]] = STRUCTURED) -> InvalidRecord:
    with pytest.raises(InvalidRecord) as caught:
        parse(decode(value, headers))
    error = caught.value
    assert error.message
    assert error.message.isprintable()
    assert len(error.message) <= 500
    return error


def test_a_structured_record_becomes_an_event() -> None:
    value = record(
        time="2025-06-01T12:00:00.5+02:00", subject="s", correlationid="c", traceparent="t"
    )
    event = decode(value, STRUCTURED)
    assert event == Event(
        id="e-1",
        source="/essays",
        type="PipelineRequestedV1",
        data=REQUEST,
        time=datetime(2025, 6, 1, 10, 0, 0, 500_000, tzinfo=UTC),
        subject="s",
        correlationid="c",
        traceparent="t",
    )


@pytest.mark.parametrize("headers", [[], [("content-type", b"application/json")], [("x", b"\xff")]])
def test_without_ce_headers_a_record_is_structured(headers: list[tuple[str, bytes]]) -> None:
    assert decode(record(), headers).id == "e-1"


def test_a_binary_record_becomes_the_same_event() -> None:
    headers = [*BINARY, ("ce_time", b"2025-06-01T12:00:00Z"), ("ce_causationid", b"k")]
    event = decode(json.dumps(REQUEST).encode(), headers)
    assert event.data == REQUEST
    assert event.time == datetime(2025, 6, 1, 12, tzinfo=UTC)
    assert event.causationid == "k"
    assert parse(event) == parse(decode(record(), STRUCTURED))


def test_the_content_type_decides_although_ce_headers_are_there() -> None:
    headers = [("ce_id", b"other"), *STRUCTURED]
    assert decode(record(), headers).id == "e-1"


def test_a_traceparent_header_counts_when_the_envelope_has_none() -> None:
    assert decode(record(), [*STRUCTURED, ("traceparent", b"00-a")]).traceparent == "00-a"
    with_own = record(traceparent="00-b")
    assert decode(with_own, [*STRUCTURED, ("traceparent", b"00-a")]).traceparent == "00-b"


@pytest.mark.parametrize("event", examples().values(), ids=examples().keys())
def test_what_is_encoded_decodes_to_the_same_event(event: Event) -> None:
    value, headers = encode(event)
    assert decode(value, headers) == event
    assert parse(event).to_data() == event.data


def test_the_encoded_record_is_structured_and_carries_the_trace() -> None:
    event = Event("e", "s", "T", {}, time=datetime(2025, 1, 1, tzinfo=UTC), traceparent="00-a")
    value, headers = encode(event)
    assert headers == [*STRUCTURED, ("traceparent", b"00-a")]
    assert json.loads(value) == {
        "specversion": "1.0",
        "id": "e",
        "source": "s",
        "type": "T",
        "datacontenttype": "application/json",
        "time": "2025-01-01T00:00:00Z",
        "traceparent": "00-a",
        "data": {},
    }


@pytest.mark.parametrize("data", [{"x": float("nan")}, {"x": [float("inf")]}, {"x": "\ud800"}])
def test_what_json_cannot_carry_is_not_encoded(data: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"JSON|surrogate"):
        encode(Event("e", "s", "T", data))


def test_a_naive_time_is_not_encoded() -> None:
    naive = datetime(2025, 1, 1)  # noqa: DTZ001 - that is the point
    with pytest.raises(ValueError, match="offset"):
        encode(Event("e", "s", "T", {}, time=naive))


@pytest.mark.parametrize("value", [None, b""])
@pytest.mark.parametrize("headers", [[], STRUCTURED, BINARY])
def test_a_record_without_value(value: bytes | None, headers: list[tuple[str, bytes]]) -> None:
    assert refusal(value, headers).code == "empty_record"


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (b"\x80\x81\xfe\xff", "invalid_json"),
        (b'{"id": "\xff"}', "invalid_json"),
        (b"{", "invalid_json"),
        (b"{'id': 1}", "invalid_json"),
        (b"[" * 10_000 + b"]" * 10_000, "invalid_json"),
        (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "invalid_json"),
        (b'{"id": "\\ud800"}', "invalid_json"),
        (b'{"id": "a\x00"}', "invalid_json"),
        (b'{"data": {"items": NaN}}', "invalid_json"),
        (b'{"data": {"items": 1' + b"0" * 5000 + b"}}", "invalid_json"),
        (b"\xef\xbb\xbf{}", "invalid_json"),
        (b"null", "invalid_envelope"),
        (b"[]", "invalid_envelope"),
        (b'"text"', "invalid_envelope"),
        (b"{}", "invalid_envelope"),
        (record(specversion="0.3"), "invalid_envelope"),
        (record(specversion=1.0), "invalid_envelope"),
        (record(id=None), "invalid_envelope"),
        (record(id=""), "invalid_envelope"),
        (record(id=7), "invalid_envelope"),
        (record(id="a" * 257), "invalid_envelope"),
        (record(id="a\x00b"), "invalid_envelope"),
        (record(source="a\u202eb"), "invalid_envelope"),
        (record(type=["T"]), "invalid_envelope"),
        (record(correlationid=5), "invalid_envelope"),
        (record(time="yesterday"), "invalid_envelope"),
        (record(time=1_700_000_000), "invalid_envelope"),
        (record(time="2025-06-01T12:00:00"), "invalid_envelope"),
        (record(data=None), "invalid_envelope"),
        (record(data="{}"), "invalid_envelope"),
        (record(data=None, data_base64="e30="), "invalid_envelope"),
        (record(datacontenttype="application/avro"), "unsupported_content_type"),
        (record(type="PipelineRequestedV9"), "unknown_type"),
        (record(type="x" * 256), "unknown_type"),
    ],
)
def test_a_bad_structured_record_is_named(value: bytes, code: str) -> None:
    assert refusal(value).code == code


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ([("content-type", b"application/avro")], "unsupported_content_type"),
        ([("content-type", b"application/cloudevents-batch+json")], "unsupported_content_type"),
        ([*BINARY[:4], ("content-type", b"\xff\xfe")], "unsupported_content_type"),
        ([*BINARY, ("ce_subject", b"\xff")], "invalid_envelope"),
        (BINARY[1:], "invalid_envelope"),
        (BINARY[:1], "invalid_envelope"),
    ],
)
def test_bad_headers_are_named(headers: list[tuple[str, bytes]], code: str) -> None:
    assert refusal(json.dumps(REQUEST).encode(), headers).code == code


def test_a_header_without_a_value_is_no_reason_to_crash() -> None:
    headers: list[Any] = [*BINARY, ("ce_subject", None)]
    assert refusal(json.dumps(REQUEST).encode(), headers).code == "invalid_envelope"


@pytest.mark.parametrize("where", ["items", "a field nobody knows"])
def test_an_overflowing_number_is_refused_anywhere(where: str) -> None:
    for text in (f'{{"{where}": 1e400}}', f'{{"{where}": [[{{"x": -1e400}}]]}}'):
        value = json.dumps({**ENVELOPE, "data": {}}).replace("{}", text).encode()
        assert refusal(value).code == "invalid_data"
        assert refusal(text.encode(), BINARY).code == "invalid_data"


def test_unknown_types_are_answered_with_the_known_ones() -> None:
    assert "PipelineRequestedV1" in refusal(record(type="Nope")).message


def test_unknown_fields_are_accepted() -> None:
    event = decode(record(data={**REQUEST, "new": {"a": [1]}}), STRUCTURED)
    assert parse(event) == PipelineRequestedV1.from_data(REQUEST)


def test_the_message_names_the_field_and_quotes_no_payload() -> None:
    secret = "s3cret\u202e" * 30
    error = refusal(record(data={**REQUEST, "user_id": secret, "items": "many"}))
    assert "data.user_id" in error.message
    assert "data.items" in error.message
    assert "s3cret" not in error.message


@example("\x00\ud800\u202e" * 400)
@given(st.text())
def test_any_message_is_bounded_and_printable(text: str) -> None:
    error = InvalidRecord("invalid_data", text)
    assert len(error.message) <= 500
    assert error.message.isprintable()
    assert pickle.loads(pickle.dumps(error)).message == error.message


@given(st.binary(), st.lists(st.tuples(st.text(), st.binary()), max_size=4))
def test_random_bytes_give_an_invalid_record_and_nothing_else(
    value: bytes, headers: list[tuple[str, bytes]]
) -> None:
    refusal(value, headers)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*ENVELOPE, "time", "subject"]), json_values))
def test_random_envelopes_are_read_or_named(changes: dict[str, Any]) -> None:
    value = json.dumps({**ENVELOPE, **changes}).encode()
    try:
        parse(decode(value, STRUCTURED))
    except InvalidRecord as error:
        assert len(error.message) <= 500


@given(
    st.datetimes(
        min_value=datetime(1970, 1, 1),  # noqa: DTZ001 - hypothesis adds the zone
        timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30))]),
    )
)
def test_any_time_survives(moment: datetime) -> None:
    value, headers = encode(Event("e", "s", "T", {}, time=moment))
    assert decode(value, headers).time == moment
