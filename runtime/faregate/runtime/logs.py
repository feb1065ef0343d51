"""Structured logs on stderr: JSON lines for machines, text on a terminal."""

from __future__ import annotations

import io
import logging
import sys
from typing import TextIO, cast

import structlog
from structlog.typing import EventDict, Processor

from faregate.runtime.settings import Settings

_COMMON: tuple[Processor, ...] = (
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.format_exc_info,
)


class _Seldom(logging.Filter):
    """Lets a message of a library through once in a while: a client repeats itself for hours."""

    def __init__(self, every_s: float) -> None:
        super().__init__()
        self._every_s = every_s
        self._last: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether this message has not been said lately."""
        key = (record.name, str(record.msg))
        if record.created - self._last.get(key, 0.0) < self._every_s:
            return False
        self._last[key] = record.created
        return True


class _Stderr(io.TextIOBase):
    """Whatever stderr is when something is logged: a logger that is kept outlives a stream."""

    def write(self, text: str) -> int:
        """Write to the stderr of now."""
        return sys.stderr.write(text)

    def flush(self) -> None:
        """Flush the stderr of now."""
        sys.stderr.flush()


def configure(settings: Settings, *, process: str) -> None:
    """Set up structlog and the standard library's logging for this process."""
    level = logging.getLevelName(settings.log_level.upper())
    text = settings.log_format == "text" or (settings.log_format == "auto" and sys.stderr.isatty())
    renderer = structlog.dev.ConsoleRenderer() if text else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, *_COMMON, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(cast("TextIO", _Stderr())),
    )
    structlog.contextvars.bind_contextvars(process=process)
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_Seldom(every_s=10.0))
    handler.setFormatter(logging.Formatter("%(name)s: %(message)s") if text else _json(process))
    logging.basicConfig(level=logging.ERROR, handlers=[handler])


def _json(process: str) -> logging.Formatter:
    """Make what writes messages of libraries with the keys of our own, and `logger`.

    They may come from any thread, which does not know what is bound to ours: the process.
    """

    def bound(_logger: object, _method: str, event: EventDict) -> EventDict:
        return {**event, "process": process}

    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[bound, structlog.stdlib.add_logger_name, *_COMMON],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.JSONRenderer(),
        ],
    )
