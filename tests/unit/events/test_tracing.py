"""Which trace contexts are believed, and that nothing is recorded where nobody asked for it."""

from __future__ import annotations

import pytest

from faregate.events import Event, tracing
from faregate.events.codec import decode, encode
from faregate.events.tracing import TraceContext, context_in, context_of, current, within

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "00-a-b-01",
        PARENT.upper(),
        f"ff-{TRACE}-b7ad6b7169203331-01",
        f"00-{'0' * 32}-b7ad6b7169203331-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-b7ad6b7169203331",
        f"{PARENT}-more",
        f"{PARENT}x",
        f"01-{TRACE}-b7ad6b7169203331-01x",
        f" {PARENT}",
        f"{PARENT}\n",
    ],
)
def test_what_is_no_traceparent_is_left_out_with_its_tracestate(text: str | None) -> None:
    assert context_of(text, "vendor=1") is None


def test_a_later_version_is_read_as_far_as_it_is_known() -> None:
    later = f"01-{TRACE}-b7ad6b7169203331-01-what-may-come"
    assert context_of(later) == TraceContext(f"01-{TRACE}-b7ad6b7169203331-01")


@pytest.mark.parametrize("state", [None, "", "a=1\r\nx", "å=1", "a=" + "1" * 511])
def test_a_tracestate_that_may_not_be_passed_on_is_dropped_alone(state: str | None) -> None:
    assert context_of(PARENT, state) == TraceContext(PARENT, None)


def test_headers_of_http_and_of_records_are_read_alike() -> None:
    expected = TraceContext(PARENT, "a=1,b=2")
    http = [(b"host", b"x"), (b"traceparent", PARENT.encode()), (b"tracestate", b"a=1")]
    assert context_in([*http, (b"tracestate", b"b=2")]) == expected
    assert context_in([("traceparent", PARENT.encode()), ("tracestate", b"a=1,b=2")]) == expected
    assert context_in([*http, (b"traceparent", PARENT.encode())]) is None, "two say two things"
    assert context_in([]) is None


def test_an_event_carries_its_tracestate_in_the_header_alone() -> None:
    event = Event("e", "s", "T", {}, traceparent=PARENT, tracestate="vendor=1")
    value, headers = encode(event)
    assert headers[1:] == [("traceparent", PARENT.encode()), ("tracestate", b"vendor=1")]
    assert b"vendor" not in value
    assert decode(value, headers) == event
    too_long = [*headers[:2], ("tracestate", b"a=" + b"1" * 600)]
    assert decode(value, too_long).tracestate is None, "that is no reason to refuse an event"


def test_the_current_context_ends_with_its_block() -> None:
    context = TraceContext(PARENT)
    with within(context):
        assert current() == context
        with within(None):
            assert current() is None
        assert current() == context
        tracing.leave()
        assert current() is None
    assert current() is None


def test_where_nothing_is_recorded_all_spans_are_one_and_nobody_reads_the_contexts() -> None:
    def never() -> TraceContext:
        raise AssertionError("this costs time for nothing")

    first = tracing.span("a", contexts=(never() for _ in range(1)))
    assert first is tracing.span("b", "server") is tracing.NOTHING
    with within(TraceContext(PARENT)), first as span:
        span.named("c")
        span.set({"a": 1})
        span.failed("500")
        assert current() == TraceContext(PARENT)
