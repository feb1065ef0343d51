"""The command line without servers: what it refuses, how it says so, and what it need not load."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from faregate.runtime.cli import app, run_cli
from faregate.runtime.cli.root import PLACES, load
from faregate.runtime.cli.stack import without_password

NOWHERE = "127.0.0.1:1"


@pytest.fixture(autouse=True)
def no_servers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of the developer's own environment is in force."""
    for name in ("KAFKA", "DATABASE", "DATABASE_FILE", "CONFIG", "TOPIC_PREFIX", "PROVISIONING"):
        monkeypatch.delenv(f"FAREGATE_{name}", raising=False)
    monkeypatch.setenv("FAREGATE_HOME", str(tmp_path / "home"))


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both servers are named, and neither answers."""
    monkeypatch.setenv("FAREGATE_KAFKA", NOWHERE)
    monkeypatch.setenv("FAREGATE_DATABASE", f"postgresql://app:hush@{NOWHERE}/faregate")


@pytest.mark.parametrize("name", PLACES)
def test_every_command_can_be_loaded_and_explains_itself(name: str) -> None:
    command = load(name)
    assert command.help
    done = CliRunner().invoke(app, [name, "--help"])
    assert done.exit_code == 0, done.output
    assert "Usage" in done.output
    assert "\b" not in done.output


def test_help_names_every_command_and_loads_none_of_their_modules() -> None:
    code = (
        "import sys; from faregate.runtime.cli import run_cli; assert run_cli(['--help']) == 0; "
        "assert not {'aiokafka', 'asyncpg', 'structlog', 'faregate.events'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in PLACES)


def test_reading_a_balance_needs_no_logs_and_no_consumers() -> None:
    code = (
        "import sys; import faregate.runtime.cli.credits; "
        "assert not {'structlog', 'rich.traceback', 'faregate.consumers.loop'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nonsense"], "No such command"),
        (["dlq", "lst"], "No such command"),
        (["credits", "set", "acme", "10"], "org:<id> or user:<id>"),
        (["credits", "set", "org:acme", "NaN"], "is not an amount"),
        (["credits", "grant", "org:acme", "0"], "is not an amount"),
        (["credits", "grant", "org:acme", "1", "--kind", "gift"], "purchase or bonus"),
        (["credits", "balance", "org:acme", "--at", "yesterday"], "is not a time"),
        (["prices", "apply", "missing.toml"], "cannot read missing.toml"),
        (["prices", "explain", "nlp"], "--items"),
        (["prices", "explain", "nlp", "--items", "0"], "--items"),
        (["tail", "nonsense"], "pipeline.requests"),
        (["tail", "denials", "--count", "0"], "--count"),
        (["trigger", "PipelineDeniedV1"], "no event that Faregate reads"),
        (["trigger", "UsageRecorded", "--set", "units"], "--set field=value"),
        (["trigger", "UsageRecorded", "--set", "unit=1"], "it has: usage_id"),
        (["trigger", "UsageRecorded", "--set", "units=0"], "data.units"),
        (["trigger", "UsageRecordedV2"], "did you mean UsageRecordedV1"),
        (["dlq", "show", "usage.recorded", "x", "1"], "names no dead letter"),
        (["dlq", "show", "credits.ledger:0:1"], "has no dead letters"),
        (["dlq", "replay"], "--all TOPIC"),
        (["dlq", "replay", "usage.recorded:0:1", "--all", "usage.recorded"], "--all TOPIC"),
        (["dlq", "replay", "usage.recorded:0:1", "--error", "x"], "--error goes with"),
        (["verify", "--since", "12"], "is not a time"),
        (["run", "nonsense"], "entitlements"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)
def test_wrong_usage_exits_2_and_says_what_to_write(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(arguments) == 2
    plain = capsys.readouterr()
    assert plain.out == ""
    assert said in plain.err
    if "tail" not in arguments and "run" not in arguments:
        assert run_cli([*arguments, "--json"]) == 2
        said_again = capsys.readouterr()
        assert said in json.loads(said_again.out)["message"]
        assert json.loads(said_again.out)["error"] == "usage"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("broken.toml", "phases = [", "is not TOML"),
        ("broken.json", "{", "is not JSON"),
        ("list.json", "[]", "must hold one object"),
        ("empty.toml", "", "has no phases"),
    ],
)
def test_a_price_file_that_cannot_be_read_exits_2(
    name: str, text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text(text)
    assert run_cli(["prices", "apply", str(tmp_path / name)]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["credits", "balance", "org:acme"],
        ["prices", "show"],
        ["explain", "run-1"],
        ["verify"],
        ["dlq", "list"],
        ["tail", "denials"],
        ["topics", "apply"],
        ["migrate"],
        ["trigger", "UsageRecordedV1"],
        ["doctor"],
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)
def test_without_servers_a_command_exits_3_and_names_the_way_out(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli([*arguments, "--json"]) == 3
    said = capsys.readouterr()
    assert "faregate stack up" in said.out
    json.loads(said.out)


@pytest.mark.usefixtures("away")
@pytest.mark.parametrize(
    "arguments",
    [
        ["credits", "balance", "org:acme"],
        ["verify", "--without-checkpoints"],
        ["dlq", "list"],
        ["tail", "usage", "--timeout", "1"],
        ["trigger", "UsageRecordedV1"],
        ["doctor"],
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)
def test_servers_that_do_not_answer_exit_3_and_no_password_is_printed(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli([*arguments, "--json"]) == 3
    said = capsys.readouterr()
    assert "hush" not in said.out + said.err
    assert "faregate doctor" in said.out or "faregate stack up" in said.out


def test_settings_say_where_each_comes_from_and_mask_secrets(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "faregate.toml").write_text('log_level = "debug"\nhold_ttl_s = 60\n')
    (tmp_path / "secret").write_text("postgresql://app:hush@db/faregate\n")
    monkeypatch.setenv("FAREGATE_CONFIG", str(tmp_path / "faregate.toml"))
    monkeypatch.setenv("FAREGATE_DATABASE_FILE", str(tmp_path / "secret"))
    monkeypatch.setenv("FAREGATE_DATABASE", "")
    monkeypatch.delenv("FAREGATE_DATABASE")
    monkeypatch.setenv("FAREGATE_HOLD_TTL_S", "90")
    monkeypatch.setenv("FAREGATE_PROVISIONNING", "manual")

    assert run_cli(["settings", "--json"]) == 0

    said = capsys.readouterr()
    rows = {row["name"]: row for row in json.loads(said.out)}
    assert (rows["hold_ttl_s"]["value"], rows["hold_ttl_s"]["source"]) == (
        90,
        "environment FAREGATE_HOLD_TTL_S",
    )
    assert rows["log_level"]["source"].startswith("file ")
    assert rows["database"]["source"] == "environment FAREGATE_DATABASE_FILE"
    assert rows["watchdog_s"]["source"] == "default"
    assert "hush" not in said.out + said.err
    assert "FAREGATE_PROVISIONNING is no setting" in said.err


def test_a_setting_that_cannot_be_used_exits_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAREGATE_PROVISIONING", "sometimes")
    assert run_cli(["settings", "--json"]) == 2
    assert "provisioning" in json.loads(capsys.readouterr().out)["message"]


def test_a_database_is_shown_without_its_password() -> None:
    assert without_password("postgresql://a:b@h:5/d?x=1") == "postgresql://a:***@h:5/d"
    assert without_password("postgresql://h/d") == "postgresql://h/d"
    assert without_password("127.0.0.1:9092") == "127.0.0.1:9092"
