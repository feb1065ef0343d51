"""JSON logs are JSON from the first line to the last, whoever wrote it; text stays text."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

SAYS = """
import logging, threading, structlog
from faregate.runtime import logs
from faregate.runtime.settings import Settings

logs.configure(Settings(log_format={format!r}), process="relay")
log = logging.getLogger("aiokafka.consumer.group_coordinator")
log.error("Request failed: %s", "no\\ncoordinator")
log.warning("not said")
try:
    1 / 0
except ZeroDivisionError:
    other = threading.Thread(target=logging.getLogger("asyncio").exception, args=["lost"])
    log.exception("ended")
other.start()
other.join()
structlog.get_logger("faregate.process").info("stopped", left=3)
"""


def said(format_: str) -> list[str]:
    code = SAYS.replace("{format!r}", repr(format_))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stderr.splitlines()


def test_what_libraries_log_is_json_with_our_keys() -> None:
    lines: list[dict[str, Any]] = [json.loads(line) for line in said("json")]
    request, ended, lost, ours = lines
    assert request.pop("timestamp")[:2] == "20"
    assert request == {
        "event": "Request failed: no\ncoordinator",
        "level": "error",
        "logger": "aiokafka.consumer.group_coordinator",
        "process": "relay",
    }
    assert "ZeroDivisionError" in ended["exception"]
    assert (lost["process"], lost["event"]) == ("relay", "lost")
    assert (ours["event"], ours["process"], ours["left"]) == ("stopped", "relay", 3)
    assert set(ours) - {"left"} == set(request) - {"logger"} | {"timestamp"}


def test_on_a_terminal_it_stays_text() -> None:
    lines = said("text")
    assert lines[0] == "aiokafka.consumer.group_coordinator: Request failed: no"
    assert "ZeroDivisionError: division by zero" in lines
