"""`faregate demo` as somebody runs it who has just installed it: it works, and leaves nothing."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from tests.helpers.machine import Machine, new_machine
from tests.helpers.processes import environment, faregate_processes
from tests.helpers.servers import Stack

from faregate.events.topics import apply_topics
from faregate.runtime.demo.story import STEPS
from faregate.runtime.supervisor import Supervisor

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]

GONE_S = 40


@pytest.fixture
def machine() -> Iterator[Machine]:
    with new_machine() as made:
        yield made


def wait_for(process: subprocess.Popen[str], text: str) -> None:
    """Read what a process prints until `text` is in it."""
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if text in line:
            return
    raise AssertionError(f"{text!r} was never printed:\n{''.join(seen)}")


def test_two_demos_at_once_tell_the_whole_story_and_leave_nothing(machine: Machine) -> None:
    other = machine.start("demo", "--json")
    code, summary = machine.run("demo")
    other_out, other_err = other.communicate(timeout=200)

    assert (code, summary["ok"], summary["error"]) == (0, True, None)
    assert other.returncode == 0, other_err
    assert json.loads(other_out)["ok"]
    assert [step["name"] for step in summary["steps"]] == list(STEPS)
    assert summary["balances"] == {
        "org:acme": {"before": 10_000, "after": 9_955, "held": 0, "debt": 0},
        "user:alice": {"before": 10_000, "after": 10_000, "held": 0, "debt": 0},
    }
    assert summary["topics"]["usage.recorded"] == 45 * 3 + 1
    assert summary["topics"]["usage.recorded.dlq"] == 1
    assert set(summary["processes"]) >= {"kafka", "postgres", "deduction", "relay"}
    machine.assert_clean()


def test_settings_of_somebody_elses_installation_do_not_change_the_story(machine: Machine) -> None:
    foreign = {"FAREGATE_TOPIC_PREFIX": "x.", "FAREGATE_PROVISIONING": "auto"}
    code, summary = machine.run("demo", **foreign, FAREGATE_FAILPOINT="before_commit")
    assert (code, summary["error"]) == (0, None)
    machine.assert_clean()


@pytest.mark.parametrize("ctrl_c", [signal.default_int_handler, signal.SIG_IGN], ids=["alone", "&"])
@pytest.mark.parametrize("moment", [" 1 ", "starts again"], ids=["early", "half_way"])
def test_a_demo_that_is_told_to_end_leaves_nothing(
    machine: Machine, moment: str, ctrl_c: Any
) -> None:
    """What a script starts with `&` ignores Ctrl-C, but not SIGTERM."""
    before = signal.signal(signal.SIGINT, ctrl_c)
    try:
        process = machine.start("demo")
    finally:
        signal.signal(signal.SIGINT, before)
    wait_for(process, moment)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    machine.assert_clean()


def test_a_demo_that_is_killed_leaves_nothing_for_long(machine: Machine) -> None:
    process = machine.start("demo")
    wait_for(process, "dies with")
    process.kill()
    process.communicate(timeout=60)
    until = time.monotonic() + GONE_S
    while (machine.processes() or machine.files()) and time.monotonic() < until:
        time.sleep(0.1)
    machine.assert_clean()


def test_what_is_kept_can_be_used_and_ends_with_the_stack(machine: Machine) -> None:
    try:
        code, summary = machine.run("demo", "--keep")
        assert (code, summary["kept"]) == (0, True)
        use_what_is_kept(machine, summary)
    finally:
        down = machine.run("stack", "down")
    assert down == (0, {"stopped": True})
    assert machine.processes() == []
    assert [path.name for path in machine.files() if path.is_file()] == ["stack.lock"]


def use_what_is_kept(machine: Machine, summary: dict[str, Any]) -> None:
    assert Path(summary["home"]).is_relative_to(machine.root / "home")
    for pid in summary["processes"].values():
        assert Path(f"/proc/{pid}").exists()

    code, account = machine.run("credits", "balance", "org:acme")
    assert (code, account["balance"]) == (0, 9_955)
    code, again = machine.run("demo", "--keep")
    assert (code, again["ok"]) == (0, True), "a second one beside what was kept"


@pytest.fixture
async def installation(stack: Stack, database_url: str) -> AsyncIterator[dict[str, str]]:
    """The settings of an installation of its own on the suite's servers, with topics."""
    env = environment(stack.kafka, database_url, f"demo-{uuid4().hex[:8]}.")
    await apply_topics(stack.kafka, prefix=env["FAREGATE_TOPIC_PREFIX"], partitions=1)
    yield env


async def test_a_missing_process_fails_the_step_that_needs_it(
    machine: Machine, installation: dict[str, str]
) -> None:
    async with faregate_processes(installation, "entitlements", "progress", "relay"):
        code, summary = await asyncio.to_thread(
            machine.run, "demo", "--external", "--patience", "3", **installation
        )
    assert (code, summary["ok"], summary["failed_step"]) == (1, False, "usage")
    assert "payment 1 of 45" in summary["error"]
    machine.assert_clean()


async def test_the_story_runs_on_an_installation_that_is_there(
    machine: Machine, installation: dict[str, str]
) -> None:
    names = ("entitlements", "deduction", "progress", "relay", "sweeper")
    async with faregate_processes(installation, *names) as procs:
        kill = f"kill -s KILL {procs.pid('deduction')}"
        demo = asyncio.to_thread(
            machine.run, "demo", "--external", "--kill-command", kill, **installation
        )
        story = asyncio.create_task(demo)
        assert await procs.wait_exit("deduction") == -signal.SIGKILL
        procs.start("deduction")
        code, summary = await story
    assert (code, summary["error"]) == (0, None)
    (usage,) = (step for step in summary["steps"] if step["name"] == "usage")
    assert usage["facts"]["killed"] == kill


async def test_a_supervised_process_that_dies_is_started_again(
    installation: dict[str, str], tmp_path: Path
) -> None:
    async with Supervisor(installation, tmp_path) as supervisor:
        first = supervisor.start("relay")
        await supervisor.wait_ready()
        supervisor.kill("relay")
        async with asyncio.timeout(20):
            while supervisor.pid("relay") == first:
                await asyncio.sleep(0.02)
        await supervisor.wait_ready()
        second = supervisor.pid("relay")
    assert not Path(f"/proc/{second}").exists()


def test_usage_is_said_in_one_line(machine: Machine) -> None:
    process = machine.start("demo", "--kill-command", "true")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert re.search("--external", err)
