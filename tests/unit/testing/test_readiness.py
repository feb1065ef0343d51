"""A process is ready once its log says that it is at work with everything it reads."""

from __future__ import annotations

import json

import pytest

from faregate.testing.processes import ALL_IN_ONE, is_ready

PREFIX = "t1."


def assigned(*topics: str) -> str:
    return json.dumps({"event": "assigned", "partitions": [f"{PREFIX}{t}[0]@7" for t in topics]})


RELAY = json.dumps({"event": "relay_started"})
DEDUCTION = assigned("usage.recorded")
PROGRESS = assigned("pipeline.progress")
ENTITLEMENTS = assigned("pipeline.progress", "pipeline.requests")
PROVISIONING = assigned("users.registered")
ALL = [RELAY, DEDUCTION, PROGRESS, ENTITLEMENTS, PROVISIONING]


@pytest.mark.parametrize(
    ("name", "log", "ready"),
    [
        ("deduction", [], False),
        ("deduction", ["no JSON", DEDUCTION], True),
        ("deduction", [PROGRESS], False),
        ("entitlements", [PROGRESS], False),
        ("entitlements", [ENTITLEMENTS], True),
        ("relay", [DEDUCTION], False),
        ("relay", [RELAY], True),
        ("sweeper", [], True),
        (ALL_IN_ONE, ALL, True),
        *[(ALL_IN_ONE, [line for line in ALL if line is not one], False) for one in ALL],
    ],
)
def test_readiness(name: str, log: list[str], ready: bool) -> None:
    assert is_ready(name, "\n".join(log), PREFIX) is ready
