"""`faregate top`: what it shows, with and without the streams."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.kafka import Raw
from tests.helpers.streams import record, worker
from tests.helpers.world import World, until

from faregate.ledger import acts
from faregate.runtime.cli.top import span
from faregate.runtime.top import Top, denials_now, rates_now

COMMAND = (sys.executable, "-m", "faregate.runtime", "top")


def environment(here: World, **more: str) -> dict[str, str]:
    outer = {k: v for k, v in os.environ.items() if not k.startswith("FAREGATE_")}
    return outer | here.environment() | more


async def printed(here: World, *words: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *COMMAND, *words, env=environment(here), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    return out.decode()


def window_around_now() -> int:
    """Give a length of windows, in seconds, of which one began minutes ago and lasts for long."""
    now = int(datetime.now(UTC).timestamp())
    return next(size for size in range(1800, 3601) if 300 <= now % size <= 900)


@pytest.mark.stack
async def test_top_shows_the_ledger_the_signals_and_the_lag(here: World, tmp_path: Path) -> None:
    await acts.set_balance(here.store, "org:acme", 1000_000_000, actor="test", key="1")
    async with here.running("deduction", "entitlements", "relay"):
        await here.send(*(here.usage(org="acme", units=10) for _ in range(6)))
        await here.send(*(here.request(org="acme", items=10_000) for _ in range(2)))
        await here.settled("deduction", "entitlements")
    seen = json.loads(await printed(here, "--json"))  # no stream has ever run
    (acme,) = seen["accounts"]
    assert (acme["account"], acme["balance"], acme["held"]) == ("org:acme", 940, 0)
    assert acme["burn"] is None
    assert acme["denials"] is None
    assert seen["streams"]["burn"] == {"running": False, "lag": None}
    assert seen["consumers"]["deduction"] == 0

    with ExitStack() as resources:
        started = worker(
            here.kafka,
            here.prefix,
            tmp_path,
            "burn",
            "denials",
            streams_denial_window_s=str(window_around_now()),
        )
        await asyncio.to_thread(resources.enter_context, started)
        async with Top(here.store, here.cluster, 5) as looking:
            found: list[dict[str, Any]] = []

            async def is_known() -> bool:
                found.append(await looking.look())
                acme = found[-1]["accounts"][0]
                lag = found[-1]["streams"]["burn"]["lag"]
                return bool(acme["burn"] and acme["denials"] and lag == 0)

            await until(is_known, 20, "burn and denials to be known")
        burn = found[-1]["accounts"][0]["burn"]
        assert 60 <= burn["per_hour"] <= 90
        assert burn["runway_s"] == pytest.approx(940 / burn["per_hour"] * 3600, rel=0.01)
        assert found[-1]["accounts"][0]["denials"] == 2
        shown = await asyncio.to_thread(partial(watched, environment(here), seconds=4))
        assert "org:acme" in shown
        assert shown.count("faregate top") >= 3, "it is drawn anew each second"

    picture = await printed(here, "--once")  # the streams have ended
    assert "org:acme" in picture
    assert "not running" in picture
    assert " ? " in picture


@pytest.mark.stack
async def test_a_signal_that_comes_while_top_begins_is_seen(
    here: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The topics are empty, and one comes after each question of where to begin reading."""
    sent: list[str] = []

    def then_a_signal(ask: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def asked(*args: Any) -> Any:
            answer = await ask(*args)
            sent.append(f"org:{ask.__name__}")
            await here.send(alert(sent[-1]))
            return answer

        return asked

    looking = Top(here.store, here.cluster, 5)
    for question in ("end_offsets", "offsets_for_times"):
        asking = then_a_signal(getattr(looking._reader, question))
        monkeypatch.setattr(looking._reader, question, asking)
    seen: set[str] = set()

    async def are_seen() -> bool:
        seen.update(found["data"]["account"] for found in (await looking.look())["alerts"])
        return seen == set(sent)

    async with looking:
        assert sorted(sent) == ["org:end_offsets", "org:offsets_for_times"]
        monkeypatch.undo()
        await until(are_seen, 20, f"alerts about {sent}")


def alert(account: str) -> Raw:
    """Make a signal that `top` lists."""
    data = {
        "account": account, "per_hour": 60, "available": 1, "runway_s": 60, "threshold_s": 14_400,
        "sequence": 1, "at": datetime.now(UTC).isoformat(),
    }  # fmt: skip
    return record("RunwayLowV1", data, account, account)


def watched(env: dict[str, str], seconds: float) -> str:
    """Run `faregate top` on a terminal of its own, end it by Ctrl-C, and give all it drew."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 160, 0, 0))
    env = {k: v for k, v in env.items() if k not in {"COLUMNS", "LINES"}} | {"TERM": "xterm"}
    process = subprocess.Popen(COMMAND, env=env, stdin=theirs, stdout=theirs)
    os.close(theirs)
    drawn = b""
    try:
        until_ = datetime.now(UTC) + timedelta(seconds=30)
        ends: datetime | None = None
        while datetime.now(UTC) < (ends or until_):
            drawn += os.read(ours, 65536)
            if ends is None and b"org:acme" in drawn:
                ends = datetime.now(UTC) + timedelta(seconds=seconds)
        process.send_signal(signal.SIGINT)
        while process.poll() is None:  # what it still draws must be read
            try:
                drawn += os.read(ours, 65536)
            except OSError:  # the terminal was closed
                break
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    return drawn.decode(errors="replace")


def test_a_signal_is_read_for_what_it_says_now() -> None:
    at = datetime(2025, 6, 2, 12, 0, tzinfo=UTC)
    said = {
        "per_minute": 5, "per_hour": 60, "per_day": 90, "runway_s": 12_000, "at": at.isoformat(),
    }  # fmt: skip
    assert rates_now(said, at + timedelta(seconds=59))["per_minute"] == 5
    assert rates_now(said, at + timedelta(seconds=61))["per_minute"] == 0
    later = rates_now(said, at + timedelta(hours=2))
    assert (later["per_hour"], later["runway_s"], later["per_day"]) == (0, None, 90)
    window = {"denials": 3, "window_end": (at + timedelta(minutes=5)).isoformat()}
    assert denials_now(window, at) == 3
    assert denials_now(window, at + timedelta(minutes=5)) == 0
    assert denials_now(None, at) == 0


def test_a_runway_is_written_for_people() -> None:
    assert [span(s) for s in (None, 0, 59, 61, 12_000, 90_000)] == [
        "-", "0 s", "59 s", "1 min 1 s", "3 h 20 min", "1 d 1 h",
    ]  # fmt: skip
