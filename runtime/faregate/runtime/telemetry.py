"""Traces with OpenTelemetry: on where the extra `otel` is installed and an endpoint is set.

Settings are OpenTelemetry's own (OTEL_*, https://opentelemetry.io/docs/specs/otel/protocol/exporter/);
docs/operations.md names those that matter. A collector that is away never holds the engine up:
spans are sent by a thread of their own, and what it cannot send is dropped.
"""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Self

import structlog

from faregate.events import tracing

log = structlog.get_logger("faregate.telemetry")

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_PROTOCOL = "http/protobuf"
_FLUSH_S = 1.0
"""With the time that processes have to drain it makes the ten seconds that a stop may take."""


def recording(names: Sequence[str]) -> AbstractContextManager[object]:
    """Record spans of the processes `names` for the length of the block, if that is asked for."""
    endpoint = _first(_ENDPOINTS)
    if not endpoint or os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return nullcontext()
    exporter = os.environ.get("OTEL_TRACES_EXPORTER", "").strip() or "otlp"
    protocol = _first(_PROTOCOLS) or _PROTOCOL
    if exporter == "none":
        return nullcontext()
    if exporter != "otlp" or protocol != _PROTOCOL:
        fix = f"use OTEL_TRACES_EXPORTER=otlp and OTEL_EXPORTER_OTLP_PROTOCOL={_PROTOCOL}"
        log.warning("traces_off", exporter=exporter, protocol=protocol, fix=fix)
        return nullcontext()
    try:
        from faregate.runtime import telemetry_spans
    except ImportError as error:
        log.warning("traces_off", missing=error.name, fix="pip install 'faregate[otel]'")
        return nullcontext()
    service = f"faregate-{names[0]}" if len(names) == 1 else "faregate"
    version = importlib.metadata.version("faregate")
    return _Recording(*telemetry_spans.make(service, version))


class _Recording:
    """Spans are recorded while it is entered; at its end what is left is sent, for a second."""

    def __init__(self, recorder: tracing.Recorder, end: Callable[[float], None]) -> None:
        self._recorder = recorder
        self._end = end

    def __enter__(self) -> Self:
        tracing.install(self._recorder)
        log.info("traces_on")
        return self

    def __exit__(self, *_: object) -> None:
        tracing.install(None)
        self._end(_FLUSH_S)


def _first(names: Sequence[str]) -> str:
    return next(filter(None, (os.environ.get(name, "").strip() for name in names)), "")
