"""The plugin in suites of its own, each a real run of pytest."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.helpers.servers import Stack

pytestmark = [pytest.mark.stack, pytest.mark.timeout(240)]
pytest_plugins = ("pytester",)

INI = """
[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
filterwarnings = error
"""


@pytest.fixture
def suite(
    pytester: pytest.Pytester, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> pytest.Pytester:
    """A suite elsewhere, told of the servers of ours."""
    for name in ("DOCKER_HOST", "PYTEST_XDIST_WORKER", "PYTEST_XDIST_TESTRUNUID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FAREGATE_KAFKA", stack.kafka)
    monkeypatch.setenv("FAREGATE_DATABASE", stack.database)
    pytester.makefile(".ini", pytest=INI)
    return pytester


def test_a_failed_test_shows_near_misses_and_logs(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        async def test_wrong(batch, publish, expect_event):
            given = await batch()
            await publish(given.requested())
            await expect_event("PipelineInitiatedV1", reserved_credits=45)
            await expect_event("PipelineDeniedV1", within_s=0.1)
        """
    )
    result = suite.runpytest_subprocess()
    result.assert_outcomes(failed=1)
    said = result.stdout.str()
    assert "faregate stack: external (FAREGATE_KAFKA and FAREGATE_DATABASE are set)" in said
    assert re.search(r"no PipelineDeniedV1\(\) came within 0.1 s", said)
    assert re.search(r"also heard: .*2 CreditsAdjustedV1", said)
    assert "log of faregate all processes (running)" in said
    assert '"event": "relay_started"' in said


def test_workers_of_xdist_do_not_see_each_other(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("units", [1, 2])
        async def test_alone(units, batch, publish, usage, expect_event, faregate, ledger):
            given = await batch(org="acme", user="ana")
            await publish(usage(given, units=units, usage_id="the-same", occurred_at=AT))
            await expect_event("CreditsDeductedV1", account="org:acme", amount=-units)
            await ledger.assert_conserved()
            heard = [h.data for h in faregate.ear.heard if h.topic == "usage.recorded"]
            assert [data.units for data in heard] == [units]
            print("prefix", faregate.prefix)

        from datetime import UTC, datetime
        AT = datetime.now(UTC)
        """
    )
    result = suite.runpytest_subprocess("-n", "2", "-rP")
    result.assert_outcomes(passed=2)
    assert len(set(re.findall(r"prefix (t\w+\.)", result.stdout.str()))) == 2


def test_a_container_engine_that_does_not_answer_is_said_in_one_line(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    suite.makepyfile("def test_needs(faregate_stack): pass")
    result = suite.runpytest_subprocess("--faregate-stack=testcontainers")
    result.assert_outcomes(errors=1)
    line = "no container engine answers*--faregate-stack=embedded"
    result.stdout.fnmatch_lines([f"faregate stack: none: {line}", line])


def test_settings_of_the_gateway_are_refused_since_none_runs(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        import pytest

        @pytest.mark.faregate(gateway_port=0, llm_api_key="k", hold_ttl_s=5)
        async def test_calls(faregate): pass
        """
    )
    result = suite.runpytest_subprocess()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        ["*runs no gateway, so gateway_port and llm_api_key would do nothing*"]
    )


def test_embedded_servers_are_started_for_a_suite_and_leave_nothing(
    suite: pytest.Pytester, stack: Stack
) -> None:
    suite.makepyfile(
        """
        def test_runs(faregate_stack):
            print("runs at", faregate_stack.kafka, faregate_stack.place.home)
        """
    )
    result = suite.runpytest_subprocess("--faregate-stack=embedded", "-rP")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["faregate stack: embedded (asked for)"])
    found = re.search(r"runs at (\S+) (\S+)", result.stdout.str())
    assert found
    assert found[1] != stack.kafka
    assert not Path(found[2]).exists()


def test_the_kit_waits_as_patiently_as_it_is_told(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        async def test_wrong(expect_event):
            await expect_event("PipelineDeniedV1", within_s=0.1)
        """
    )
    result = suite.runpytest_subprocess("--faregate-patience=7")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*no PipelineDeniedV1() came within 0.7 s"])

    result = suite.runpytest_subprocess("--faregate-patience=soon")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*patience is how many times longer*from 1 to 100, not 'soon'"])
