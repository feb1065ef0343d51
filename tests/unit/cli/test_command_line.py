"""The command line without servers: what it refuses, how it says so, and what it need not load."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from faregate.runtime import servers
from faregate.runtime.cli import app, run_cli
from faregate.runtime.cli.root import PLACES, load
from faregate.runtime.settings import load as load_settings
from faregate.runtime.settings import without_password
from faregate.runtime.stack import StackInfo
from faregate.runtime.wording import counted, in_credits, meant, plain

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


def test_the_version_is_said_without_the_engine() -> None:
    code = (
        "import sys; from faregate.runtime.cli import run_cli; assert run_cli(['--version']) == 0; "
        "assert not {'aiokafka', 'asyncpg', 'structlog', 'faregate.events'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"faregate {importlib.metadata.version('faregate')}\n"


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
        (["trigger", "UsageRecorded", "--set", "unit=1"], "did you mean units?"),
        (["trigger", "UsageRecorded", "--set", "user_id=null"], "data.user_id"),
        (["credits", "grant", "org:acme", "1", "--kind", "bonuss"], "did you mean bonus?"),
        (["credits", "grant", "org:acme", "1", "--knd", "bonus"], "No such option: --knd"),
        (["dlq", "list", "usage.recoded"], "did you mean usage.recorded?"),
        (["tail", "denails"], "did you mean denials?"),
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
        said_again = json.loads(capsys.readouterr().out)
        assert said in said_again["message"]
        assert said_again["error"] == "usage"
        assert said_again["fix"].startswith(("faregate ", "see a whole book"))


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("broken.toml", "phases = [", "is not TOML"),
        ("broken.json", "{", "is not JSON"),
        ("list.json", "[]", "must hold one object"),
        ("empty.toml", "", "has no phases"),
        ("s.toml", '[phase]\nx = {per = "item", credits = 1}', "did you mean 'phases'"),
        ("k.toml", '[phases]\nx = {pre = "item", credits = 1}', "did you mean 'per'"),
        ("v.toml", '[phases]\nx = {per = "page", credits = 1}', "per must be one of"),
    ],
)
def test_a_price_file_that_cannot_be_read_exits_2(
    name: str, text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text(text)
    assert run_cli(["prices", "apply", str(tmp_path / name), "--json"]) == 2
    answer = json.loads(capsys.readouterr().out)
    assert said in answer["message"]
    assert str(tmp_path / name) in answer["message"]
    assert "faregate prices show" in answer["fix"]


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
    answer = json.loads(capsys.readouterr().out)
    if arguments == ["doctor"]:
        (answer,) = ({**c, "message": c["detail"]} for c in answer["checks"] if c["missing"])
    assert "faregate stack up" in answer["fix"]
    assert "not set, and the embedded stack in " in answer["message"]


@pytest.mark.usefixtures("away")
@pytest.mark.parametrize(
    "arguments",
    [
        ["credits", "balance", "org:acme"],
        ["credits", "set", "org:acme", "5"],
        ["prices", "show"],
        ["explain", "run-1"],
        ["migrate"],
        ["health", "relay"],
        ["run", "relay"],
        ["serve"],
        ["verify", "--without-checkpoints"],
        ["dlq", "list"],
        ["topics", "apply"],
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
    answer = json.loads(said.out)
    away = [c | {"message": c["detail"]} for c in answer.get("checks", ()) if c["missing"]]
    for fault in away or [answer]:
        of_kafka = (
            arguments[0] in {"dlq", "topics", "tail", "trigger"} or fault.get("name") == "kafka"
        )
        name = "FAREGATE_KAFKA" if of_kafka else "FAREGATE_DATABASE"
        assert (
            f"cannot be reached at {'' if of_kafka else 'postgresql://app:***@'}"
            in fault["message"]
        )
        assert NOWHERE in fault["message"]
        assert f"({name})" in fault["message"]
        assert name in fault["fix"]
        assert "faregate stack up" in fault["fix"]


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
    answer = json.loads(capsys.readouterr().out)
    assert "FAREGATE_PROVISIONING is 'sometimes'" in answer["message"]
    # `faregate settings` fails in the same way, so it must not be the advice.
    assert answer["fix"] == "correct FAREGATE_PROVISIONING, or take that out for the default"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('provisionning = "auto"', "did you mean provisioning?"),
        ("hold_ttl_s = 0", "hold_ttl_s in file "),
        ('database = "mysql://app:hush@db"', "must be a URL that begins with postgresql://"),
        ("kafka = [", "is not TOML"),
        ('kafka = "a:b:c"', "must be host:port"),
        ('kafka = "127.0.0.1:99999"', "must be host:port"),
        ('kafka = "broker"', "must be host:port"),
        ('kafka = "a:9092,::1:9092"', "must be host:port"),
        ('topic_prefix = "bad prefix/"', "may have letters, digits and . _ -"),
    ],
)
def test_a_settings_file_that_cannot_be_used_is_named(
    text: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "faregate.toml"
    file.write_text(text)
    monkeypatch.setenv("FAREGATE_CONFIG", str(file))
    assert run_cli(["credits", "balance", "org:acme", "--json"]) == 2
    answer = json.loads(capsys.readouterr().out)
    assert said in answer["message"]
    assert str(file) in answer["message"]
    assert "hush" not in answer["message"]
    assert answer["fix"]


def test_a_server_named_in_the_file_is_called_as_it_is_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "f.toml").write_text(f'kafka = "{NOWHERE}"')
    monkeypatch.setenv("FAREGATE_CONFIG", str(tmp_path / "f.toml"))
    assert run_cli(["dlq", "list"]) == 3
    assert f"(kafka in file {tmp_path / 'f.toml'})" in capsys.readouterr().err


def test_an_embedded_server_that_has_ended_is_named_with_its_log(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logs = {name: tmp_path / f"{name}.log" for name in ("kafka", "postgres")}
    url = "postgresql://app:hush@h/d"
    half = StackInfo(
        kafka="h:1",
        database=url,
        home=tmp_path,
        ephemeral=False,
        kafka_pid=1,
        postgres_pid=2,
        kafka_alive=False,
        postgres_alive=True,
        logs=logs,
    )
    monkeypatch.setattr("faregate.runtime.stack.status", lambda _home: half)
    assert run_cli(["dlq", "list", "--json"]) == 3
    answer = json.loads(capsys.readouterr().out)
    assert f"has ended is: Kafka, see {logs['kafka']}" in answer["message"]
    assert "faregate stack up" in answer["fix"]
    assert servers.database(load_settings()) == url


def test_numbers_have_their_noun() -> None:
    assert [counted(n, "event") for n in (0, 1, 2, 1234)] == [
        "0 events",
        "1 event",
        "2 events",
        "1,234 events",
    ]
    assert [plain(n) for n in (0, 1234, 0.00001, -1234.5)] == ["0", "1,234", "0.00001", "-1,234.5"]
    assert counted(1, "entry", "entries") == "1 entry"
    assert counted(2, "entry", "entries") == "2 entries"
    assert [in_credits(n) for n in (1_000_000, 250_000)] == ["1 credit", "0.25 credits"]
    assert (meant("phase", ["phases"]), meant("x", ["phases"])) == ("; did you mean phases?", "")


def test_a_database_is_shown_without_its_password() -> None:
    assert without_password("postgresql://a:b@h:5/d?x=1") == "postgresql://a:***@h:5/d"
    assert without_password("postgresql://h/d") == "postgresql://h/d"
    assert without_password("postgresql://h/d?password=b") == "postgresql://h/d"
    assert without_password("postgresql://a:b@h:5,i:6/d") == "postgresql://a:***@h:5,i:6/d"
    assert without_password("127.0.0.1:9092") == "127.0.0.1:9092"
