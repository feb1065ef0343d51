"""Workers share the servers of whoever comes first; that one ends them, after everybody else."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

WORKER = """
import sys
from pathlib import Path
from faregate.testing.places import Place, shared

run, name = Path(sys.argv[1]), sys.argv[2]

def start():
    (run / f"started-by-{name}").touch()
    return Place("kafka", name, "", ""), lambda: (run / f"ended-by-{name}").touch()

with shared(run, start) as place:
    print(place.database, flush=True)
    sys.stdin.readline()
print("left", flush=True)
"""


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[list[subprocess.Popen[str]]]:
    with ExitStack() as running:
        started = []
        for name in ("first", "second"):
            worker = subprocess.Popen(
                [sys.executable, "-c", WORKER, str(tmp_path), name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            running.enter_context(worker)
            running.callback(worker.kill)
            started.append(worker)
            assert worker.stdout
            assert worker.stdout.readline() == "first\n"
        yield started


def leave(worker: subprocess.Popen[str]) -> None:
    assert worker.stdin
    worker.stdin.write("\n")
    worker.stdin.flush()


def test_the_first_ends_the_servers_as_the_last_one(
    workers: list[subprocess.Popen[str]], tmp_path: Path
) -> None:
    first, second = workers
    leave(first)
    with pytest.raises(subprocess.TimeoutExpired):
        first.wait(0.5)
    assert not (tmp_path / "ended-by-first").exists()
    leave(second)
    assert [second.wait(10), first.wait(10)] == [0, 0]
    assert {p.name for p in tmp_path.glob("*-by-*")} == {"started-by-first", "ended-by-first"}


def test_a_killed_worker_keeps_nobody_waiting(
    workers: list[subprocess.Popen[str]], tmp_path: Path
) -> None:
    first, second = workers
    second.kill()
    second.wait(10)
    leave(first)
    assert first.wait(10) == 0
    assert (tmp_path / "ended-by-first").exists()
