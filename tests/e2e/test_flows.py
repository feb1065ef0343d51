"""The flows on the whole running system: Kafka, PostgreSQL, `faregate serve`, a LiteLLM proxy.

The flows are the product's own (`faregate report`). What they say of the ledger is checked here
once more, with SQL of our own; and a gateway that is not right must not pass.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from tests.e2e.liar import Liar, liar
from tests.helpers.kafka import read_all
from tests.helpers.litellm import LiteLLM, litellm
from tests.helpers.machine import Machine, new_machine

from faregate.events import decode
from faregate.runtime.flows.place import Installation, installation
from faregate.runtime.flows.records import FlowResult, Report, StepResult
from faregate.runtime.flows.run import FLOWS, NoAdmin, run
from faregate.runtime.flows.target import Login, Target
from faregate.runtime.flows.timings import SAMPLES
from faregate.runtime.flows.upstream import Upstream
from faregate.runtime.flows.writing import ERRORS, PAGE, SUMMARY, TEXT, write

pytestmark = [pytest.mark.stack, pytest.mark.litellm, pytest.mark.timeout(600)]

MICRO = 1_000_000
HUNDRED_TOKENS = {
    "mock_response": {
        "id": "chatcmpl-hundred",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello"},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 63, "completion_tokens": 37, "total_tokens": 100},
    }
}


@pytest.fixture(scope="module", autouse=True)
def beside() -> Iterator[tuple[Machine, subprocess.Popen[str]]]:
    """One command that starts everything itself, while the others start what they need."""
    with new_machine() as machine:
        process = machine.start("report", "admin", "--json", FAREGATE_PROVISIONING="manual")
        try:
            yield machine, process
        finally:
            if process.poll() is None:
                process.terminate()
                process.communicate(timeout=60)


@pytest.fixture(scope="module")
def proxy() -> Iterator[LiteLLM]:
    with litellm({"gpt-3.5-turbo": HUNDRED_TOKENS}, wait=False) as starting:
        yield starting


@pytest.fixture(scope="module")
def target(proxy: LiteLLM) -> Iterator[Target]:
    """An installation of its own, whose database can be stopped; both start side by side."""
    with installation(print, Upstream(proxy.url, proxy.key)) as started:
        proxy.wait()
        yield started


def steps(report: Report) -> dict[str, StepResult]:
    return {f"{flow.name}/{step.name}": step for flow, step in report.steps}


def command(*arguments: str, given: str = "", **env: str) -> tuple[int, Any]:
    """Run `faregate report` on a gateway; give its exit code and what it printed."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("FAREGATE_")}
    done = subprocess.run(
        [sys.executable, "-m", "faregate.runtime", "report", *arguments, "--json"],
        input=given, env=clean | env, capture_output=True, check=False, text=True,
    )  # fmt: skip
    assert done.stdout.count("\n") == 1, f"{done.stdout}\n{done.stderr}"
    return done.returncode, json.loads(done.stdout)


async def test_every_flow_holds_on_http_and_in_the_ledger(
    target: Target, proxy: LiteLLM, tmp_path: Path
) -> None:
    report = await run(target, list(FLOWS))
    wrong = {name: step.failures or step.why for name, step in steps(report).items()}
    assert {name: why for name, why in wrong.items() if why} == {}
    everything = sum(len(flow.steps()) + 1 for flow in FLOWS.values())  # and the proof of each
    assert report.counts == {"passed": everything, "failed": 0, "partial": 0, "not_run": 0}
    assert [flow.name for flow in report.flows] == list(FLOWS)

    assert balances(report, "individual/call") == {"ada": (10_000, 9_991, 9_991)}
    assert came(report, "individual/call", "calls") == ["1/10,000"]
    call = balances(report, "organization/call")
    assert call["the organization"] == (10_000, 9_991, 9_991)
    assert call["bob's allocation"] == (2_500, 2_491, 2_491)
    assert balances(report, "byok/call") == {"dora": (100, 100, 100)}
    assert balances(report, "edges/at_once") == {"ada": (1_000, 0, 0)}
    assert {row.name: row.n for row in report.timings if row.n != SAMPLES} == {}
    assert proxy.log.read_text().count('"POST /v1/chat/completions HTTP/1.1" 200') == 3

    owner = await asyncpg.connect(target.database)
    try:
        await the_ledger_says_the_same(owner)
        assert isinstance(target.own, Installation)
        await kafka_has_heard_of_all(owner, target.own.info.kafka)
    finally:
        await owner.close()
    the_files_are_whole(report, tmp_path)


def balances(report: Report, step: str) -> dict[str, tuple[Any, ...]]:
    return {b.account: (b.before, b.after, b.ledger) for b in steps(report)[step].balances}


def came(report: Report, step: str, what: str) -> list[Any]:
    return [check.came for check in steps(report)[step].checks if check.what == what]


async def the_ledger_says_the_same(owner: asyncpg.Connection) -> None:
    """Look at what the flows have left behind, without any of the product's own readers."""
    drifted = await owner.fetch("""
        SELECT a.id FROM accounts a LEFT JOIN entries e ON e.account_id = a.id GROUP BY a.id
        HAVING a.balance <> coalesce(sum(e.amount), 0) OR a.balance < 0 OR a.held <> 0
            OR a.debt <> 0 OR a.sequence <> count(e.id)""")
    assert drifted == []
    by_proxy = await usage(owner, "input_tokens = 63 AND output_tokens = 37")
    # Somebody alone; the organization and its member's allocation; platform credits instead of
    # one's own key, whose two calls were answered by the report's own upstream.
    assert by_proxy == [("f", -9)] * 4
    assert await usage(owner, "input_tokens = 60 AND output_tokens = 40") == [("t", 0)] * 2
    at_once = await usage(owner, "model IS NULL AND amount = -100000000")
    assert at_once == [("f", -100)] * 10
    assert await owner.fetchval("SELECT count(*) FROM outcomes WHERE result = 'refused'") > 10
    trial = await owner.fetchval("""
        SELECT max(calls) FROM (SELECT sum(calls) AS calls FROM outcomes GROUP BY user_id) AS c""")
    assert trial == 700
    assert await owner.fetchval("SELECT count(*) FROM outbox") == 0
    quotas = await owner.fetch("SELECT metadata FROM audit WHERE action = 'set_quota' ORDER BY id")
    assert len(quotas) == 2, "lowered for the 429, and put back"


async def kafka_has_heard_of_all(owner: asyncpg.Connection, kafka: str) -> None:
    """Compare what was announced with what was charged, entry by entry."""
    charged = await owner.fetch("""
        SELECT s.subject, e.sequence, e.amount FROM entries e JOIN subjects s USING (account_id)
        WHERE e.kind = 'usage' AND s.subject NOT LIKE 'member:%'""")
    events = [decode(r.value, r.headers) for r in await read_all(kafka, ["credits.ledger"])]
    announced = {
        (e.data["account"], e.data["sequence"], round(e.data["amount"] * MICRO))
        for e in events
        if e.type == "CreditsDeductedV1"
    }
    assert announced == {tuple(row) for row in charged}
    assert len(announced) > 700


async def usage(owner: asyncpg.Connection, where: str) -> list[tuple[str, float]]:
    rows = await owner.fetch(
        f"SELECT byok::text, amount FROM entries WHERE kind = 'usage' AND {where}"
    )
    return [((row["byok"] or "false")[0], row["amount"] / MICRO) for row in rows]


def the_files_are_whole(report: Report, folder: Path) -> None:
    files = write(report, folder)
    assert sorted(files) == sorted((TEXT, PAGE, SUMMARY, ERRORS))
    assert (folder / ERRORS).read_text() == ""
    summary = json.loads((folder / SUMMARY).read_text())
    assert (summary["ok"], summary["status"], summary["errors"]) == (True, "passed", [])
    text, page = (folder / TEXT).read_text(), (folder / PAGE).read_text()
    for flow in report.flows:
        for step in flow.steps:
            assert step.title in text
    assert "ada: 10,000 → 9,991 credits, ledger 9,991" in text
    assert re.findall(r"<(?:script|link|img|iframe)|(?:src|href|url)\s*[=(]", page) == []
    assert 'name="viewport"' in page


async def test_what_cannot_be_done_is_not_said_to_have_passed(target: Target) -> None:
    report = await run(Target(target.url), ["byok", "edges"])
    found = steps(report)
    assert {name for name, step in found.items() if step.status == "passed"} == set()
    assert report.counts["failed"] == 0
    down = found["edges/database_down"]
    assert (down.status, down.checks) == ("not_run", [])
    assert "only where the report has started it" in down.why[0]
    assert found["byok/stored"].why == [
        "it rests on “A key is found missing before anything is held”"
    ]
    assert {row.ok for row in report.timings} == {None}


def test_a_gateway_that_shows_another_balance_fails_its_steps(
    target: Target, tmp_path: Path
) -> None:
    assert target.login and target.database
    with liar(target.url) as between:
        code, summary = command(
            "admin", "--url", between.url, "--out", str(tmp_path),
            "--admin-email", target.login.email, "--admin-password-stdin",
            given=target.login.password, FAREGATE_REPORT_DATABASE=target.database,
        )  # fmt: skip
    assert (code, summary["ok"], summary["status"]) == (1, False, "failed")
    (flow,) = summary["flows"]
    assert {step["status"] for step in flow["steps"]} == {"failed"}, "each compares the balances"
    (error,) = [e for e in summary["errors"] if e["what"] == "their balance"]
    it_is_told_whole(error, tmp_path, between)


def it_is_told_whole(error: dict[str, Any], folder: Path, between: Liar) -> None:
    """What was expected, what came, the request, and the id that it had on its way."""
    assert (error["step"], error["expected"], error["came"]) == ("allocated", 100, 101)
    call = error["call"]
    assert (call["method"], call["path"]) == ("GET", "/api/credits/balance")
    assert call["correlation_id"] in between.seen
    lines = (folder / ERRORS).read_text().splitlines()
    at = lines.index("admin/allocated: their balance (http)")
    assert lines[at + 1 : at + 4] == [
        "  expected: 100",
        "  came: 101",
        "  request: GET /api/credits/balance null",
    ]
    assert lines[at + 4].startswith("  answer: 200 {")
    assert '"totalCredits": 101' in lines[at + 4]
    assert lines[at + 5] == f"  correlation id: {call['correlation_id']}"
    at = lines.index("admin/checked: eve: the ledger's balance, is shown (ledger)")
    assert lines[at + 1 : at + 3] == ["  expected: 100.0", "  came: 101.0"]
    page = (folder / PAGE).read_text()
    assert call["correlation_id"] in page
    assert '<span class="mark failed">FAILED</span>' in page


async def test_who_is_no_admin_is_told_so(target: Target) -> None:
    assert target.login
    wrong = Login(target.login.email, "wrong password")
    for target_, said in (
        (Target(target.url, token="nonsense"), "401 unauthenticated"),
        (Target(target.url, login=wrong), "401 sign_in_failed"),
    ):
        with pytest.raises(NoAdmin, match=said):
            await run(target_, ["admin"])


async def test_a_database_that_goes_away_half_way_fails_what_comes_after(
    target: Target, tmp_path: Path
) -> None:
    own = target.own
    assert own

    def on_step(_: FlowResult, step: StepResult) -> None:
        if step.name == "allocated":
            own.stop_database()

    try:
        report = await run(target, ["admin", "byok"], on_step)
    finally:
        own.start_database()
    first, *others = steps(report).values()
    assert first.status == "passed"
    assert {step.status for step in others} == {"failed", "not_run"}
    assert not report.ok
    write(report, tmp_path)
    assert "  came: 503 check_unavailable" in (tmp_path / ERRORS).read_text().splitlines()


def test_a_gateway_whose_database_is_away_is_a_missing_server(
    target: Target, tmp_path: Path
) -> None:
    assert target.own and target.login
    target.own.stop_database()
    try:
        code, said = command(
            "all", "--url", target.url, "--out", str(tmp_path / "out"),
            "--admin-email", target.login.email, "--admin-password-stdin",
            given=target.login.password,
        )  # fmt: skip
    finally:
        target.own.start_database()
    assert (code, said["error"]) == (3, "server_missing")
    assert "503 check_unavailable" in said["message"]
    assert not (tmp_path / "out").exists()


def test_one_command_shows_a_flow_and_leaves_nothing_but_its_report(
    beside: tuple[Machine, subprocess.Popen[str]],
) -> None:
    machine, process = beside
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    summary = json.loads(out)
    assert (summary["ok"], summary["counts"]["passed"]) == (True, len(FLOWS["admin"].steps()) + 1)
    folder = machine.root / "work" / "faregate-report"
    assert {path.name for path in folder.iterdir()} == {TEXT, PAGE, SUMMARY, ERRORS}
    assert machine.processes() == []
    assert {path.parent for path in machine.files() if path.is_file()} == {folder}
