"""Every command's JSON against a real Kafka, a real database and the real processes."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from tests.helpers.forking import faregate
from tests.helpers.processes import environment
from tests.helpers.servers import Stack, drop_database, fresh_database

from faregate.runtime.cli.root import PLACES, load

pytestmark = pytest.mark.stack

COMMAND = (sys.executable, "-m", "faregate.runtime")
PATIENCE_S = 30.0


@dataclass(frozen=True, slots=True)
class Product:
    """An installation of its own: the environment that makes commands use it."""

    env: dict[str, str]

    def ended(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command and give what it printed, and its exit code."""
        return subprocess.run(
            [*faregate(), *arguments], env=self.env, capture_output=True, text=True, check=False
        )

    def run(self, *arguments: str, code: int = 0) -> str:
        """Run a command and give its stdout; its exit code must be `code`."""
        done = self.ended(*arguments)
        assert done.returncode == code, (
            f"{arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
        )
        return done.stdout

    def json(self, *arguments: str, code: int = 0) -> Any:
        """Run a command with --json and give its one JSON value."""
        return json.loads(self.run(*arguments, "--json", code=code))

    def trigger(self, event: str, *more: str, **fields: object) -> dict[str, Any]:
        """Publish an example event and give its data."""
        sets = [word for k, v in fields.items() for word in ("--set", f"{k}={v}")]
        done: dict[str, Any] = self.json("trigger", event, *sets, *more)
        data: dict[str, Any] = done["data"]
        return data

    def until(self, look: Callable[[], Any]) -> Any:
        """Give what `look` finds as soon as it finds something."""
        until = time.monotonic() + PATIENCE_S
        while not (found := look()):
            assert time.monotonic() < until, "it did not happen"
            time.sleep(0.1)
        return found

    def explained(self, identifier: str) -> Any:
        """Explain an id as soon as the ledger knows it."""

        def look() -> Any:
            done = self.ended("explain", identifier, "--json")
            return json.loads(done.stdout) if done.returncode == 0 else None

        return self.until(look)


def _environment(stack: Stack, url: str) -> dict[str, str]:
    prefix = f"cli-{uuid4().hex[:8]}."
    ours = environment(stack.kafka, url, prefix, partitions="2")
    return {k: v for k, v in os.environ.items() if not k.startswith("FAREGATE_")} | ours


@pytest.fixture(scope="module")
def product(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """Topics, a migrated database, and every process of the product in one."""
    url = asyncio.run(fresh_database(stack.database))
    found = Product(_environment(stack, url))
    found.run("topics", "apply")
    log = tmp_path_factory.mktemp("cli") / "serve.log"
    with log.open("w") as lines:
        serving = subprocess.Popen([*COMMAND, "serve"], env=found.env, stderr=lines)
        try:
            yield found
        finally:
            serving.send_signal(signal.SIGTERM)
            assert serving.wait(20) == 0, log.read_text()
            asyncio.run(drop_database(stack.database, url))


def test_a_denied_pipeline_is_explained(product: Product) -> None:
    asked = product.trigger("PipelineRequestedV1", user_id="poor", org_id="null", items=10)
    found = product.explained(asked["pipeline_id"])
    (decision,) = found["pipeline"]["decisions"]
    assert (decision["result"], decision["reason"]) == ("denied", "insufficient_credits")
    assert decision["required_credits"] == 45
    assert decision["considered"] == [{"payer": "user:poor", "available": 0, "in_debt": False}]
    scored = decision["phases"][-1]
    assert (scored["per"], scored["units"], scored["required_credits"]) == ("pair", 45, 45)
    assert any("was denied" in line for line in found["story"])

    denied = product.run("tail", "denials", "--from-start", "--count", "1", "--json")
    event = json.loads(denied)
    assert event["type"] == "PipelineDeniedV1"
    assert event["data"]["pipeline_id"] == asked["pipeline_id"]


def test_a_pipeline_its_usage_and_its_release_are_explained(product: Product) -> None:
    product.json("credits", "set", "org:rich", "50")
    who = {"user_id": "ada", "org_id": "rich"}
    run = product.trigger("PipelineRequestedV1", items=10, **who)["pipeline_id"]
    product.explained(run)
    usage = product.trigger("UsageRecordedV1", pipeline_id=run, units=44, **who)["usage_id"]
    over = product.trigger("UsageRecordedV1", pipeline_id=run, units=9, **who)["usage_id"]
    paid, owed = product.explained(usage), product.explained(over)
    product.trigger("PipelineFinishedV1", pipeline_id=run, usage_events=2, **who)
    found = product.until(
        lambda: (p := product.explained(run)["pipeline"])["hold"]["state"] == "closed" and p
    )

    (decision,) = found["decisions"]
    assert (decision["payer"], decision["reserved_credits"]) == ("org:rich", 45)
    assert decision["considered"][0] == {"payer": "org:rich", "available": 50, "in_debt": False}
    assert found["usage"] == {
        "events": 2,
        "cost": 53,
        "from_hold": 45,
        "from_balance": 5,
        "debt": 3,
        "refunded": 0,
        "left": 53,
        "unpriced": 0,
    }
    assert [e["kind"] for e in found["entries"]] == ["hold", "usage", "usage"]
    (first,) = paid["usages"]
    assert (first["cost"], first["from_hold"], first["payer"]) == (44, 44, "org:rich")
    assert first["price_version"] == 1
    (second,) = owed["usages"]
    assert (second["from_hold"], second["from_balance"], second["debt"]) == (1, 5, 3)

    history = product.json("credits", "history", "org:rich")
    assert history[0]["debt"] == 3
    assert product.json("credits", "balance", "org:rich")["debt"] == 3
    assert product.json("credits", "balance", "org:rich", "--at", "2020-01-01")["balance"] == 0


def test_an_account_that_nobody_has_named_has_zeros_and_no_entries(product: Product) -> None:
    # Both answer alike: an account comes into being with its first credits, so asking is no fault.
    zeros = product.json("credits", "balance", "org:nobody")
    assert [zeros[n] for n in ("balance", "held", "available", "debt", "tier")] == [0] * 4 + [
        "free"
    ]
    assert product.json("credits", "history", "org:nobody") == []
    assert "org:nobody has no entries" in product.run("credits", "history", "org:nobody")


def test_trigger_says_what_it_filled_in_and_leaves_out_what_is_null(product: Product) -> None:
    own = ("--set", "user_id=cleo", "--set", "org_id=null")
    done = product.ended("trigger", "PipelineRequestedV1", *own, "--json")
    data = json.loads(done.stdout)["data"]
    assert data["user_id"] == "cleo"
    assert "org_id" not in data
    assert f"filled in from the example: pipeline_id={data['pipeline_id']}" in done.stderr
    assert "user_id" not in done.stderr
    assert "org_id" not in done.stderr

    said = product.ended("trigger", "PipelineRequestedV1", "--set", "user_id=cleo").stderr
    assert "org_id=lakeside-school" in said
    assert "--set org_id=null" in said


def test_an_unknown_id_exits_1_with_a_hint(product: Product) -> None:
    said = product.json("explain", "never-sent", code=1)
    assert said["error"] == "not_found"
    assert "faregate dlq list" in said["fix"]


def test_a_dead_letter_is_listed_shown_and_replayed(product: Product) -> None:
    product.json("credits", "set", "user:odd", "50")
    for units in (1, 2):
        product.trigger(
            "UsageRecordedV1", "--id", "odd-1", user_id="odd", org_id="null", units=units
        )

    def odd() -> list[dict[str, Any]]:
        listed = product.json("dlq", "list", "usage.recorded", "--error", "idempotency_conflict")
        return [letter for letter in listed if letter["key"] == "user:odd"]

    (letter,) = product.until(odd)
    assert (letter["error"], letter["attempts"]) == ("idempotency_conflict", 1)
    shown = product.json("dlq", "show", letter["id"])
    assert shown["event"]["data"]["units"] == 2
    assert json.loads(shown["value"])["id"] == "odd-1"
    place = (letter["topic"], str(letter["partition"]), str(letter["offset"]))
    assert product.json("dlq", "show", *place)["id"] == letter["id"]

    assert product.json("dlq", "replay", letter["id"])["replayed"] == 1
    again = product.until(lambda: len(odd()) == 2 and odd())[-1]
    assert (again["attempts"], again["first_seen"]) == (2, letter["first_seen"])
    same = product.json("dlq", "show", again["id"])
    assert (same["value"], same["headers"]) == (shown["value"], shown["headers"])

    done = product.json("dlq", "replay", "--all", "usage.recorded")
    replayed = [r["id"] for r in done["records"] if r["id"] in {letter["id"], again["id"]}]
    assert replayed == [again["id"]], "equal records are replayed once, the most tried one"
    product.until(lambda: [x["attempts"] for x in odd()] == [1, 2, 3])
    assert product.json("credits", "balance", "user:odd")["balance"] == 49
    assert product.json("dlq", "show", "usage.recorded:0:99999", code=1)["error"] == "not_found"


def test_prices_are_applied_shown_and_explained(product: Product, tmp_path: Path) -> None:
    explained = product.json("prices", "explain", "cj_assessment", "--items", "10")
    assert (explained["kind"], explained["required_credits"]) == ("pipeline", 45)
    alone = product.json("prices", "explain", "cj_assessment", "--items", "10", "--phase")
    assert [p["phase"] for p in alone["phases"]] == ["cj_assessment"]
    assert (
        product.json("prices", "explain", "nope", "--items", "1", code=1)["error"]
        == "unknown_price"
    )

    usage = product.trigger("UsageRecordedV1", user_id="early", org_id="null", phase="embedding")
    assert product.explained(usage["usage_id"])["usages"][0]["result"] == "unpriced"
    before = product.json("prices", "show")
    book = {"phases": {**before["phases"], "embedding": {"per": "item", "credits": 0.5}}}
    file = tmp_path / "prices.json"
    file.write_text(json.dumps({**before, **book}))
    past = ("--effective-from", usage["occurred_at"][:10])

    assert product.json("prices", "apply", str(file), *past, code=1)["error"] == "backdated"
    done = product.json("prices", "apply", str(file), *past, "--backdate")
    assert (done["version"], done["backdated"]) == (before["version"] + 1, True)
    assert (done["unpriced"], done["unpriced_to_charge"]) == (1, 1)
    paid = product.until(
        lambda: (
            (u := product.explained(usage["usage_id"])["usages"][0])["result"] == "charged" and u
        )
    )
    assert (paid["cost"], paid["debt"], paid["priced_late"]) == (22.5, 22.5, True)
    assert paid["price_version"] == done["version"]

    later = product.json("prices", "apply", str(file), "--effective-from", "2990-01-01T00:00:00Z")
    shown = product.json("prices", "show")
    assert (shown["version"], shown["in_force"]) == (done["version"], True)
    assert [v["version"] for v in shown["versions"]][-1] == later["version"]
    assert product.json("prices", "show", "--version", "1")["in_force"] is False
    assert product.json("prices", "show", "--version", "99", code=1)["error"] == "unknown_version"
    file.write_text('{"phases": {"x": {"per": "page", "credits": 1}}}')
    assert "per must be one of" in product.json("prices", "apply", str(file), code=2)["message"]


def test_tail_prints_a_line_for_each_record_and_ends_well_on_ctrl_c(product: Product) -> None:
    following = subprocess.Popen(
        [*COMMAND, "tail", "usage", "--json"], env=product.env, stdout=subprocess.PIPE, text=True
    )
    try:
        assert following.stdout is not None
        time.sleep(3)  # there is no sign of having begun: it says nothing until a record comes
        sent = product.trigger("UsageRecordedV1", user_id="tailed", org_id="null")
        event = json.loads(following.stdout.readline())
        assert (event["type"], event["data"]["usage_id"]) == ("UsageRecordedV1", sent["usage_id"])
        following.send_signal(signal.SIGINT)
        assert following.wait(10) == 0
    finally:
        following.kill()
        following.communicate()
    lines = product.run("tail", "credits.ledger", "--from-start", "--timeout", "2").splitlines()
    assert all(len(line) < 200 for line in lines)


def test_verify_finds_a_sound_ledger_and_names_what_was_changed(product: Product) -> None:
    import asyncpg

    product.json("credits", "set", "org:tampered", "7")
    report = product.json("verify")
    assert (report["ok"], report["with_checkpoints"]) == (True, True), report
    assert product.json("verify", "--without-checkpoints", "--since", "2020-01-01")["ok"] is True

    async def tamper(amount: int) -> None:
        owner = await asyncpg.connect(product.env["FAREGATE_DATABASE"])
        sql = (
            "UPDATE entries SET amount = $1 FROM subjects s "
            "WHERE s.account_id = entries.account_id AND s.subject = 'org:tampered'"
        )
        await owner.execute("ALTER TABLE entries DISABLE TRIGGER append_only")
        await owner.execute(sql, amount)
        await owner.execute("ALTER TABLE entries ENABLE ALWAYS TRIGGER append_only")
        await owner.close()

    asyncio.run(tamper(8_000_000))
    drift = product.json("verify", code=1)
    assert any("org:tampered" in finding["row"] for finding in drift["findings"])
    assert "org:tampered" in product.run("verify", code=1)
    asyncio.run(tamper(7_000_000))


def test_doctor_finds_nothing_wrong_then_what_is_missing(product: Product, stack: Stack) -> None:
    def well() -> Any:
        found = product.json("doctor")
        return found if all(c["state"] == "OK" for c in found["checks"]) else None

    names = {check["name"] for check in product.until(well)["checks"]}
    assert {"clock", "migrations", "append-only", "outbox", "topics", "deduction"} <= names

    url = asyncio.run(fresh_database(stack.database))
    try:
        elsewhere = Product(_environment(stack, url))
        checks = {c["name"]: c for c in elsewhere.json("doctor", code=1)["checks"]}
        assert (checks["topics"]["state"], checks["topics"]["fix"]) == (
            "FAIL",
            "faregate topics apply",
        )
        assert checks["outbox"]["state"] == "WARN"
        assert "faregate topics apply" in elsewhere.run("doctor", code=1)
        missing = elsewhere.json("trigger", "UsageRecordedV1", code=3)
        assert missing["fix"] == "run: faregate topics apply"
    finally:
        asyncio.run(drop_database(stack.database, url))


def test_a_database_that_is_not_migrated_is_said_to_be(product: Product, stack: Stack) -> None:
    url = asyncio.run(fresh_database(stack.database, template="template0"))
    try:
        bare = Product(product.env | {"FAREGATE_DATABASE": url})
        said = bare.json("credits", "balance", "org:x", code=3)
        assert (said["error"], said["fix"]) == ("not_migrated", "run: faregate migrate")
        checks = {c["name"]: c for c in bare.json("doctor", code=1)["checks"]}
        assert checks["migrations"]["fix"] == "faregate migrate"
    finally:
        asyncio.run(drop_database(stack.database, url))


def test_settings_in_force_come_without_the_password(product: Product) -> None:
    rows = {row["name"]: row for row in product.json("settings")}
    assert rows["kafka"]["source"] == "environment FAREGATE_KAFKA"
    assert set(rows["database"]["value"]) == {"*"}


_LONG_OR_PLACES = ("stack ", "demo", "serve", "run ", "dlq show", "dlq replay usage.recorded:",
                   "credits unlock", "users create", "byok ", "erase ", "streams", "fraud review",
                   "report individual", "report all")  # fmt: skip
"""Examples that start servers or processes, ask for a secret or a confirmation, or name a dead
letter or a milestone that is not here."""


@pytest.mark.timeout(300)
def test_the_examples_in_the_help_run(product: Product, tmp_path: Path) -> None:
    lines = []
    for name in PLACES:
        place = load(name)
        for one in (place, *getattr(place, "commands", {}).values()):
            lines += [line.strip() for line in (one.epilog or "").splitlines()[1:]]
    program = f'faregate() {{ {shlex.join(faregate())} "$@"; }}'
    for line in dict.fromkeys(lines):
        what = line.removeprefix("faregate ")
        if what.startswith(_LONG_OR_PLACES) or "and Ctrl-C" in line:
            continue

        def runs(line: str = line) -> bool:
            """Run it until it does: what is to be explained may not have been read yet."""
            done = subprocess.run(
                ["bash", "-c", f"{program}\n{line}"], env=product.env, cwd=tmp_path, check=False
            )
            return done.returncode == 0

        product.until(runs)
