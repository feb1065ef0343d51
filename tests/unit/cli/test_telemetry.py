"""When spans are recorded, and what becomes of them: OpenTelemetry's own settings decide."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from time import monotonic

import pytest
from tests.helpers.otlp import Collector, collector

from faregate.events import tracing
from faregate.events.tracing import TraceContext, context_of
from faregate.runtime.telemetry import recording

ONE, TWO, OFF = (
    TraceContext(f"00-{digit * 32}-{digit * 16}-{flags}", None)
    for digit, flags in (("1", "01"), ("2", "01"), ("3", "00"))
)
CLOSED = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ENDPOINT", "TRACES_ENDPOINT", "PROTOCOL", "TRACES_PROTOCOL"):
        monkeypatch.delenv(f"OTEL_EXPORTER_OTLP_{name}", raising=False)
    for name in ("SDK_DISABLED", "TRACES_EXPORTER", "SERVICE_NAME", "RESOURCE_ATTRIBUTES"):
        monkeypatch.delenv(f"OTEL_{name}", raising=False)


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with collector() as made:
        for name, value in made.environment.items():
            monkeypatch.setenv(name, value)
        yield made


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": CLOSED, "OTEL_SDK_DISABLED": "true"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": CLOSED, "OTEL_TRACES_EXPORTER": "none"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": CLOSED, "OTEL_TRACES_EXPORTER": "console"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": CLOSED, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
    ],
)
def test_nothing_is_recorded_unless_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, more: dict[str, str]
) -> None:
    for name, value in more.items():
        monkeypatch.setenv(name, value)
    with recording(["gateway"]):
        assert not tracing.is_recording()


def test_without_the_extra_an_endpoint_is_no_error(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", CLOSED)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    monkeypatch.delitem(sys.modules, "faregate.runtime.telemetry_spans", raising=False)
    monkeypatch.delattr("faregate.runtime.telemetry_spans", raising=False)
    with recording(["gateway"]):
        assert not tracing.is_recording()
    said = "".join(capfd.readouterr())
    assert "traces_off" in said
    assert "faregate[otel]" in said


def test_shared_work_is_in_the_trace_of_each_caller(found: Collector) -> None:
    with (
        recording(["relay"]),
        tracing.span("shared", contexts=[ONE, None, TWO, ONE, OFF], mirrored=True) as span,
    ):
        assert tracing.current() not in (ONE, TWO)
        span.set({"batch": 3})
    assert not tracing.is_recording()
    by_trace = {seen.trace: seen for seen in found.spans}
    own = next(s for s in found.spans if s.trace not in ("1" * 32, "2" * 32))
    assert len(found.spans) == 3, "and none for the caller that did not want to be sampled"
    assert own.links == {("1" * 32, "1" * 16), ("2" * 32, "2" * 16), ("3" * 32, "3" * 16)}
    for digit in "12":
        mirror = by_trace[digit * 32]
        assert (mirror.parent, mirror.links) == (digit * 16, frozenset({(own.trace, own.id)}))
        assert (mirror.began_ns, mirror.ended_ns) == (own.began_ns, own.ended_ns)
        assert mirror.attributes == {"batch": 3, "faregate.mirror": True}
    assert {s.service for s in found.spans} == {"faregate-relay"}


def test_no_more_than_128_traces_share_a_span(found: Collector) -> None:
    many = [context_of(f"00-{n:032x}-{n:016x}-01") for n in range(1, 1000)]
    seen = 0

    def looked_at() -> Iterator[TraceContext | None]:
        nonlocal seen
        for context in many:
            seen += 1
            yield context

    with recording(["relay"]), tracing.span("shared", contexts=looked_at(), mirrored=True):
        pass
    assert (seen, len(found.spans)) == (128, 129)
    assert {len(s.links) for s in found.spans} == {1, 128}


def test_work_for_one_caller_is_a_child_and_what_it_does_are_its_children(
    found: Collector,
) -> None:
    with recording(["gateway", "relay"]):
        with tracing.span("one", "server", contexts=[ONE, ONE]), tracing.span("child", "client"):
            pass
        with tracing.within(OFF), tracing.span("not sampled"):
            assert str(tracing.current()).count("3" * 32) == 1
    one, child = (found.named(name)[0] for name in ("one", "child"))
    assert (one.trace, one.parent, one.links, one.kind) == ("1" * 32, "1" * 16, frozenset(), 2)
    assert (child.trace, child.parent, child.kind) == (one.trace, one.id, 3)
    assert {s.name for s in found.spans} == {"one", "child"}
    assert {s.service for s in found.spans} == {"faregate"}


def test_what_an_exception_says_is_not_exported(found: Collector) -> None:
    with (
        recording(["gateway"]),
        pytest.raises(ValueError, match="canary"),
        tracing.span("failing", contexts=[context_of(ONE.traceparent)]),
    ):
        raise ValueError("canary: user@example.com")
    (seen,) = found.spans
    assert (seen.failed, seen.attributes, seen.events) == (True, {"error.type": "ValueError"}, 0)
    assert b"canary" not in b"".join(found.raw)


def test_a_collector_that_is_away_does_not_hold_a_process_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", CLOSED)
    with recording(["gateway"]):
        with tracing.span("lost"):
            pass
        began = monotonic()
    assert monotonic() - began < 5
    assert [t.name for t in threading.enumerate() if "Otel" in t.name] == []


def test_the_environment_names_the_service(
    monkeypatch: pytest.MonkeyPatch, found: Collector
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "credits")
    with recording(["gateway"]), tracing.span("one"):
        pass
    assert [s.service for s in found.spans] == ["credits"]
