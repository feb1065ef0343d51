"""How often a worker may die: one that does not stay up is for somebody else to mend."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from subprocess import Popen
from time import monotonic
from typing import Any

import pytest

from faregate.runtime import workers
from faregate.runtime.settings import load
from faregate.runtime.workers import WorkerFailed, Workers


class Dead:
    """A process that was killed as soon as it was started."""

    pid = 4_194_305

    def poll(self) -> int:
        return -9


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Workers]:
    """Workers that all die, on real sockets."""
    monkeypatch.setenv("FAREGATE_HOME", str(tmp_path))
    monkeypatch.setenv("FAREGATE_GATEWAY_PORT", "0")
    monkeypatch.setattr(Workers, "_spawn", lambda *_: Dead())
    found = Workers(load())
    yield found
    for listener in found._sockets:
        listener.close()


def deaths(gateway: Workers, times: int, age_s: float, metrics: Path) -> None:
    dead: Popen[bytes] | Any = Dead()
    worker = workers._Worker(dead, monotonic() - age_s)
    for _ in range(times):
        gateway._revive(0, worker, str(metrics))
        assert worker.process is not dead
        dead, worker.started_at = worker.process, monotonic() - age_s


def test_a_worker_that_dies_now_and_then_is_started_for_ever(
    gateway: Workers, tmp_path: Path
) -> None:
    deaths(gateway, 9, 11, tmp_path)


def test_a_worker_that_dies_three_times_soon_after_its_start_is_not(
    gateway: Workers, tmp_path: Path
) -> None:
    deaths(gateway, 2, 2, tmp_path)
    with pytest.raises(WorkerFailed, match="worker 0 of the gateway ended with -9, and again"):
        deaths(gateway, 3, 2, tmp_path)
