"""The report itself: what a step's state is, timings against the table, text that is not trusted."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest

from faregate.runtime.cli import run_cli
from faregate.runtime.flows.client import Client, NotHere, masked, route_of
from faregate.runtime.flows.flow import Flow, step
from faregate.runtime.flows.records import Call, FlowResult, Report, StepResult
from faregate.runtime.flows.text import headline
from faregate.runtime.flows.timings import DEDUCT, REGISTRATION, SIGN_IN, percentile, timings
from faregate.runtime.flows.world import World
from faregate.runtime.flows.writing import ERRORS, PAGE, SUMMARY, TEXT, write

NOWHERE = "http://127.0.0.1:1"
EVIL = "<script>alert('x')</script>"
Answer = Callable[[httpx.Request], httpx.Response]


def call(ms: float, timed: str, status: int | None = 200) -> Call:
    return Call("POST", "/x", None, "0" * 32, timed, status, None, ms)


def row(name: str, *calls: Call) -> Any:
    return next(r for r in timings(calls) if r.name == name)


def test_ninety_five_percent_of_the_calls_must_be_within_the_limit() -> None:
    nineteen = [call(49, DEDUCT)] * 19
    kept = row(DEDUCT, *nineteen, call(500, DEDUCT))
    assert (kept.ok, kept.n, kept.within, kept.p95_ms, kept.max_ms) == (True, 20, 19, 49, 500)
    missed = row(DEDUCT, *nineteen[1:], call(51, DEDUCT), call(500, DEDUCT))
    assert (missed.ok, missed.within, missed.p95_ms) == (False, 18, 51)


def test_a_call_without_an_answer_and_a_row_without_calls_are_no_success() -> None:
    assert row(DEDUCT, call(1, DEDUCT, status=None)).ok is None
    assert row(REGISTRATION, call(1, REGISTRATION)).ok is None, "there was no sign-in to compare"


def test_a_registration_is_measured_beyond_a_median_sign_in() -> None:
    sign_ins = [call(ms, SIGN_IN) for ms in (80, 100, 250)]
    found = row(REGISTRATION, *sign_ins, call(149, REGISTRATION), call(151, REGISTRATION))
    assert (found.n, found.within, found.max_ms, found.ok) == (2, 1, 51, False)


def test_percentiles_are_values_that_were_there() -> None:
    values = [float(n) for n in range(1, 21)]
    assert (percentile(values, 0.5), percentile(values, 0.95), percentile([7.0], 0.95)) == (
        10,
        19,
        7,
    )


def test_secrets_are_masked_however_deep_they_are() -> None:
    value = {"password": "p", "keys": [{"api_key": "k", "id": 1}], "access_token": None}
    assert masked(value) == {
        "password": "***",
        "keys": [{"api_key": "***", "id": 1}],
        "access_token": None,
    }


def test_what_is_known_to_be_secret_is_masked_wherever_it_stands() -> None:
    assert masked({"detail": ["the key sk-1 is bad"]}, {"sk-1"}) == {
        "detail": ["the key *** is bad"]
    }


def test_calls_are_counted_by_route() -> None:
    path = "/api/v1/org/0f8fad5b-d9cb-469f-a165-70867728950e/invite?x=1"
    assert route_of(Call("POST", path, None, "")) == "/api/v1/org/{id}/invite"


class Claims(Flow):
    """Steps of every kind."""

    name, title = "claims", f"Claims {EVIL}"

    @step("good", needed=True)
    async def _good(self) -> None:
        reply = self.answered(await self.world.client.call("GET", "/good"))
        self.same("an amount", reply["amount"], 0.1 + 0.2, reply)

    @step("wrong")
    async def _wrong(self) -> None:
        reply = await self.world.client.call("POST", "/good", {"password": "hush", "n": EVIL})
        self.same("the answer", reply.json["evil"], 1, reply)
        self.refused(reply, 402, "insufficient_credits")

    @step("half")
    async def _half(self) -> None:
        self.same("one", 1, 1)
        raise NotHere("no ledger")

    @step("lacking", needed=True)
    async def _lacking(self) -> None:
        reply = await self.world.client.call("GET", "/good")
        self.same("more", reply["more"], 1)

    @step("resting")
    async def _resting(self) -> None:
        raise AssertionError("never")


async def played(flow: type[Flow], answer: Answer) -> FlowResult:
    transport = httpx.MockTransport(answer)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway.test") as http:
        world = World(Client(http), None, None, None, None)
        return await flow(world, lambda _flow, _step: None).play()


@pytest.fixture
async def report() -> Report:
    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"amount": 0.3, "evil": EVIL})

    made = Report("http://gateway.test", "1", datetime.now(UTC), ledger=False)
    made.flows.append(await played(Claims, answer))
    return made


def states(result: FlowResult) -> dict[str, str]:
    return {one.name: one.status for one in result.steps}


async def test_a_step_is_what_its_claims_are(report: Report) -> None:
    (flow,) = report.flows
    assert states(flow) == {
        "good": "passed",
        "wrong": "failed",
        "half": "partial",
        "lacking": "failed",
        "resting": "not_run",
        "proof": "not_run",
    }
    assert (flow.status, report.status, report.ok) == ("failed", "failed", False)
    lacking = flow.steps[3].failures[0]
    assert (lacking.what, lacking.came) == ("GET /good answers with 'more'", "200")


@pytest.mark.parametrize(
    ("found", "whole", "ok"),
    [
        (["passed", "passed"], "passed", True),
        (["passed", "not_run"], "partial", True),
        (["passed", "failed"], "failed", False),
        (["not_run", "not_run"], "not_run", False),
    ],
)
def test_a_run_is_what_its_steps_are(found: list[Any], whole: str, ok: bool) -> None:
    made = [StepResult(str(n), "", datetime.now(UTC), status) for n, status in enumerate(found)]
    report = Report("", "", datetime.now(UTC), ledger=True, flows=[FlowResult("f", "", made)])
    assert (report.flows[0].status, report.status, report.ok) == (whole, whole, ok)


async def test_a_gateway_that_does_not_answer_fails_the_step() -> None:
    def nobody(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    result = await played(Claims, nobody)
    failure = result.steps[0].failures[0]
    assert (failure.expected, failure.came) == ("an answer", "ConnectError: refused")
    assert failure.call is not None
    assert failure.call.status is None
    assert {s.status for s in result.steps[1:]} == {"not_run"}


def test_what_came_from_outside_is_escaped_and_secrets_are_nowhere(
    report: Report, tmp_path: Path
) -> None:
    write(report, tmp_path / "new" / "folder")
    texts = {name: (tmp_path / "new" / "folder" / name).read_text() for name in (TEXT, PAGE, SUMMARY, ERRORS)}  # fmt: skip
    assert "<script" not in texts[PAGE]
    assert "&lt;script&gt;alert(&#x27;x&#x27;)" in texts[PAGE]
    assert all("hush" not in text for text in texts.values())
    assert unclosed(texts[PAGE]) == []
    summary = json.loads(texts[SUMMARY])
    (error, *_) = [e for e in summary["errors"] if e["step"] == "wrong"]
    assert (error["expected"], error["came"]) == (1, EVIL)
    assert error["call"]["sent"] == {"password": "***", "n": EVIL}
    assert f"correlation id: {error['call']['correlation_id']}" in texts[ERRORS]
    assert summary["counts"] == {"passed": 1, "failed": 2, "partial": 1, "not_run": 2}


def unclosed(page: str) -> list[str]:
    """List the tags of a page that are opened and not closed, or closed and not opened."""
    found: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: Any) -> None:
            if tag != "meta":
                found.append(tag)

        def handle_endtag(self, tag: str) -> None:
            if found and found[-1] == tag:
                found.pop()
            else:
                found.append(f"/{tag}")

    Reader().feed(page)
    return found


def test_a_slow_gateway_is_named_in_the_headline() -> None:
    made = [StepResult("s", "", datetime.now(UTC))]
    report = Report("", "", datetime.now(UTC), ledger=True, flows=[FlowResult("f", "", made)])
    report.timings = timings([call(51, DEDUCT)])
    assert headline(report) == "passed: 1 passed, 0.0 s; slower than they should be: deduct"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["individal"], "did you mean individual?"),
        (["--out", "x"], "say which, or all"),
        (["all", "--admin-email", "a@example.com", "--admin-password-stdin"], "belong to --url"),
        (["--url", "127.0.0.1:8080"], "is not a URL"),
        (["--url", NOWHERE, "--admin-email", "a@example.com"], "go together"),
        (["--url", NOWHERE, "--upstream", NOWHERE], "leave --url out"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)
def test_wrong_usage_says_what_to_write(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(["report", *arguments, "--json"]) == 2
    assert said in json.loads(capsys.readouterr().out)["message"]


def test_a_key_without_its_provider_is_refused_and_not_repeated(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAREGATE_REPORT_BYOK_KEY", "sk-hush")
    assert run_cli(["report", "byok", "--url", NOWHERE]) == 2
    printed = capsys.readouterr()
    assert "has a provider and its key" in printed.err
    assert "sk-hush" not in printed.out + printed.err


def test_no_gateway_is_a_missing_server_and_no_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "report"
    assert run_cli(["report", "all", "--url", NOWHERE, "--out", str(folder), "--json"]) == 3
    said = json.loads(capsys.readouterr().out)
    assert (said["error"], "does not answer" in said["message"]) == ("server_missing", True)
    assert not folder.exists()


def test_a_ledger_that_cannot_be_opened_is_one_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    database = "postgresql://app:hush@127.0.0.1:1/faregate"
    arguments = [
        "report",
        "--url",
        NOWHERE,
        "--database",
        database,
        "--out",
        str(tmp_path),
        "--json",
    ]
    assert run_cli(arguments) == 3
    printed = capsys.readouterr()
    assert "the ledger's database" in json.loads(printed.out)["message"]
    assert "hush" not in printed.out + printed.err
