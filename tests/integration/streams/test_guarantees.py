"""What Faust promises and what not, pinned: the reason why nothing here may ever move money."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Any
from uuid import uuid4

import pytest
from tests.helpers.kafka import Raw
from tests.helpers.servers import Stack
from tests.helpers.streams import Account, Streams

from faregate.events.topics import Topic, apply_topics
from faregate.runtime.supervisor import die_with_parent
from faregate.testing.topics import delete_topics

pytestmark = [pytest.mark.stack, pytest.mark.faults]

TOPIC = "numbers"
PROGRAM = Path(__file__).with_name("what_faust_does.py")


@pytest.fixture
def numbers(stack: Stack) -> Iterator[Streams]:
    """A topic with one partition, and the changelogs of the program."""
    prefix = f"t{uuid4().hex[:10]}."
    names = ("naive", "guarded")
    internal = [f"faregate.streams.counting-{name}-changelog" for name in names]
    topics = [Topic(TOPIC, 1, 3_600_000, "none", ())]
    topics += [Topic(name, 1, -1, "none", (), "compact") for name in internal]
    asyncio.run(apply_topics(stack.kafka, prefix=prefix, partitions=1, topics=topics))
    yield Streams(stack.kafka, prefix)
    asyncio.run(delete_topics(stack.kafka, prefix))


@contextmanager
def program(numbers: Streams, home: Path) -> Iterator[subprocess.Popen[bytes]]:
    with (home / "log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, PROGRAM, numbers.kafka, numbers.prefix, TOPIC, home, home / "told"],
            stderr=log,
            stdout=subprocess.DEVNULL,
            preexec_fn=die_with_parent(),  # noqa: PLW1509 - as the supervisor does
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def feed(numbers: Streams, *records: tuple[int, str]) -> None:
    """Send numbered records of 1 each, with what the agent does at them."""
    numbers.feed(
        *(
            Raw(TOPIC, json.dumps({"n": 1, "number": number, "do": do}).encode(), b"k")
            for number, do in records
        )
    )


def told(home: Path, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    until = monotonic() + 30
    while True:
        text = (home / "told").read_text() if (home / "told").exists() else ""
        found: dict[str, Any] = json.loads(text) if text else {}
        if found and condition(found):
            return found
        assert monotonic() < until, (found, (home / "log").read_text()[-3000:])
        sleep(0.1)


def test_what_faust_promises_and_what_not(numbers: Streams, tmp_path: Path) -> None:
    # 1. An agent that raises has acknowledged its event: it is never delivered again, so what it
    #    was about is lost. (A debit would be.) The agent itself goes on with the next one.
    with program(numbers, tmp_path):
        feed(numbers, (0, "count"), (1, "raise"), (2, "count"))
        first = told(tmp_path, lambda found: found["number"] == 2)
        assert first["naive"] == first["guarded"] == 2, "of three records the second one is lost"
        sleep(2.5)  # commits are made every second

    # 2. It stays lost after a restart: the offset was committed beyond it. State is still there.
    with program(numbers, tmp_path) as process:
        feed(numbers, (3, "count"))
        assert told(tmp_path, lambda found: found["number"] == 3)["guarded"] == 3

        # 3. A process that is killed after it has changed a table, and before it has committed,
        #    reads the record again: a sum that does not know what it has counted counts it twice.
        feed(numbers, (4, "die"))
        assert process.wait(30) == 1
    with program(numbers, tmp_path):
        feed(numbers, (5, "count"))
        last = told(tmp_path, lambda found: found["number"] == 5)
        assert last["naive"] == 6, "five were counted, one of them twice"
        # 4. One that keeps the sequence it has counted in the same value does not: so ours do.
        assert last["guarded"] == 5


def test_a_stream_that_hangs_ends_within_ten_seconds(streams: Streams) -> None:
    acme = Account("org:hangs")
    streams.feed(acme.grant(1))
    process = subprocess.Popen(
        [
            sys.executable,
            PROGRAM.with_name("a_stream_that_hangs.py"),
            streams.kafka,
            streams.prefix,
            "120",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        preexec_fn=die_with_parent(),  # noqa: PLW1509 - as the supervisor does
    )
    with process:
        try:
            assert process.stdout is not None
            lines = iter(process.stdout.readline, b"")
            assert any(line == b"hangs\n" for line in lines)  # it logs to stdout as well
            began = monotonic()
            process.terminate()
            assert process.wait(30) == 0
            assert monotonic() - began < 10
        finally:
            process.kill()
