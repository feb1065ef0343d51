"""A Kafka behind TLS and SASL: everything of the product comes in, and who may not is told why."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from aiokafka.errors import KafkaConnectionError
from tests.helpers.commands import Commands
from tests.helpers.forking import faregate
from tests.helpers.processes import environment, faregate_processes
from tests.helpers.secured import PASSWORD, SALT_PASSWORD, SALTED, USER, Secured, secured
from tests.helpers.servers import Stack
from tests.helpers.streams import worker

from faregate.consumers.kafka import Cluster
from faregate.consumers.records import there_now
from faregate.events import (
    Event,
    KafkaRefused,
    PipelineInitiatedV1,
    PipelineRequestedV1,
    Publisher,
    Subscriber,
    TopicsFailed,
    UsageRecordedV1,
    apply_topics,
    decode,
)
from faregate.ledger.core import Rules
from faregate.ledger.database import make_pool
from faregate.ledger.store import open_store
from faregate.runtime.serving import Probe
from faregate.runtime.stack import jars
from faregate.runtime.stack.kafka import java

pytestmark = [pytest.mark.stack, pytest.mark.xdist_group("private_stack")]

NAMES = ("entitlements", "deduction", "relay")
REFUSED_S = 60.0
"""A command that waits for a broker that refuses it is still there after as long."""


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    with secured(tmp_path_factory.mktemp("papers")) as made:
        yield made


@dataclass(frozen=True, slots=True)
class Place:
    """An installation that comes in by SASL_SSL."""

    kafka: Secured
    database: str
    prefix: str

    def env(self, listener: str = "SECURE", **more: str) -> dict[str, str]:
        entrance = self.kafka.env(listener, **more)
        return environment("-", self.database, self.prefix, partitions="2") | entrance

    def commands(self, listener: str = "SECURE", **more: str) -> Commands:
        env = self.env(listener, **more)
        return Commands(Stack(env["FAREGATE_KAFKA"], self.database), self.database, env)

    @property
    def cluster(self) -> Cluster:
        place = self.kafka.listeners["SECURE"]
        return Cluster(place, self.prefix, kafka=self.kafka.options())

    async def topics(self) -> None:
        await apply_topics(self.cluster.bootstrap, partitions=2, **self.sdk)

    @property
    def sdk(self) -> dict[str, Any]:
        return {"prefix": self.prefix, "kafka": self.kafka.options()}


@pytest.fixture
async def place(kafka: Secured, database_url: str) -> AsyncIterator[Place]:
    yield Place(kafka, database_url, f"s{uuid4().hex[:8]}.")


async def _heard(place: Place, wanted: type[Any]) -> Any:
    """Give the first event of a type, as an app's subscriber hears it."""
    subscriber = Subscriber(place.cluster.bootstrap, f"{place.prefix}app", **place.sdk)
    heard: asyncio.Queue[Any] = asyncio.Queue()

    @subscriber.on(wanted)
    async def hear(data: Any, _event: Event) -> None:
        await heard.put(data)

    listening = asyncio.create_task(subscriber.run())
    try:
        async with asyncio.timeout(30):
            return await heard.get()
    finally:
        listening.cancel()
        with suppress(asyncio.CancelledError):
            await listening


async def _announced(place: Place, topic: str, type_: str) -> Event:
    """Give an announcement of the relay, as soon as there is one."""
    async with asyncio.timeout(30):
        while True:
            async for record in there_now(place.cluster, [place.prefix + topic], "test"):
                if (event := decode(record.value, record.headers)).type == type_:
                    return event
            await asyncio.sleep(0.1)


async def test_the_whole_path(place: Place) -> None:
    commands = place.commands()
    await commands.run("topics", "apply")
    await commands.run("credits", "set", "org:acme", "100")
    asked = PipelineRequestedV1(
        pipeline_id="p-1",
        user_id="ada",
        org_id="acme",
        pipeline="essay_grading",
        batch_id="b-1",
        items=2,
        phases=["cj_assessment"],
    )
    used = UsageRecordedV1(
        usage_id="u-1", user_id="ada", org_id="acme", pipeline_id="p-1",
        phase="cj_assessment", units=1, occurred_at=datetime.now(UTC),
    )  # fmt: skip
    log = ""
    async with faregate_processes(place.env(), *NAMES) as procs:
        async with Publisher(place.cluster.bootstrap, "/tests", **place.sdk) as publisher:
            await publisher.publish(asked)
            assert (await _heard(place, PipelineInitiatedV1)).pipeline_id == "p-1"
            await publisher.publish(used)
        deducted = await _announced(place, "credits.ledger", "CreditsDeductedV1")
        assert deducted.data["account"] == "org:acme"
        assert (await commands.json("health", "deduction"))["group_members"]
        assert (await commands.json("top", "--once"))["consumers"]["deduction"] == 0
        checks = {c["name"]: c for c in (await commands.json("doctor"))["checks"]}
        assert checks["kafka"]["state"] == checks["deduction"]["state"] == "OK"
        log = "".join(map(procs.log, NAMES))
    found = await commands.json("verify")
    assert found["ok"] is True
    assert PASSWORD not in log


async def test_looking_and_asking(place: Place) -> None:
    await place.topics()
    commands = place.commands()
    sent = await commands.json("trigger", "UsageRecordedV1")
    tailed = await commands.json("tail", "usage", "--from-start", "--count", "1")
    assert tailed["id"] == sent["id"]
    assert await commands.json("dlq", "list", "usage.recorded") == []
    assert await commands.json("fraud", "list") is not None
    erased = await commands.json("erase", "user:nobody", "--yes")
    assert {t["from"] for t in erased["remains"]["kafka"]} == {"cluster"}


async def test_the_demo_on_given_servers(place: Place) -> None:
    told = await place.commands().json("demo")
    assert told["ok"] is True


async def test_readiness_of_the_gateway(place: Place) -> None:
    await place.topics()
    pool = await make_pool(place.database, name="test")
    try:
        store = await open_store(pool, Rules(provisioning="manual"))
        found = await Probe(store, place.cluster, {"deduction": ("usage.recorded",)})()
        assert found["kafka"]["ok"] is found["lag"]["ok"] is True
        wrong = place.kafka.options() | {"sasl_plain_password": "wrong"}
        cluster = Cluster(place.cluster.bootstrap, place.prefix, kafka=wrong)
        assert (await Probe(store, cluster, {})())["kafka"] == {
            "ok": False,
            "error": "KafkaRefused",
        }
    finally:
        pool.terminate()


@pytest.mark.parametrize("listener", ["SECURE", "MUTUAL"])
async def test_the_streams_come_in(place: Place, tmp_path: Path, listener: str) -> None:
    await place.topics()
    env = {k.removeprefix("FAREGATE_").lower(): v for k, v in place.env(listener).items()}
    where, prefix = env.pop("kafka"), env.pop("topic_prefix")
    with worker(where, prefix, tmp_path, "burn", **env) as running:
        assert PASSWORD not in json.dumps(running.lines())


@pytest.mark.parametrize("listener", ["MUTUAL", "CLEAR"])
async def test_other_ways_in(place: Place, listener: str) -> None:
    commands = place.commands(listener)
    assert {c["action"] for c in await commands.json("topics", "apply")} == {"created"}


async def test_a_key_in_the_same_file(place: Place) -> None:
    both = str(place.kafka.papers.path("client-both"))
    commands = place.commands("MUTUAL", kafka_cert_file=both, kafka_key_file="")
    assert await commands.json("topics", "apply")


@pytest.mark.parametrize("mechanism", SALTED)
async def test_a_salted_password(place: Place, mechanism: str) -> None:
    listener = "CLEAR" if mechanism == "SCRAM-SHA-256" else "SECURE"
    await asyncio.to_thread(_salt, place.kafka.plain, mechanism)
    salted = {"kafka_sasl_mechanism": mechanism, "kafka_sasl_password": SALT_PASSWORD}
    assert await place.commands(listener, **salted).json("topics", "apply")
    refused = await place.commands(listener, **salted | {"kafka_sasl_password": "x"}).json(
        "topics", "apply", code=3
    )
    assert mechanism in refused["message"]


def _salt(kafka: str, mechanism: str) -> None:
    """Let a broker know a user's password for SCRAM."""
    command = [str(java()), "-cp", f"{jars.ensure(lambda _: None)}/*", "kafka.admin.ConfigCommand"]
    command += ["--bootstrap-server", kafka, "--alter", "--entity-type", "users"]
    command += ["--entity-name", USER]
    command += ["--add-config", f"{mechanism}=[iterations=4096,password={SALT_PASSWORD}]"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)


WRONG = {
    "a wrong password": (
        "SECURE",
        {"kafka_sasl_password": "not-this-one"},
        f"refuses user '{USER}' with this password (PLAIN)",
        "correct FAREGATE_KAFKA_SASL_USERNAME and FAREGATE_KAFKA_SASL_PASSWORD",
    ),
    "an authority that nobody knows": (
        "SECURE",
        {"kafka_ca_file": ""},
        "is not trusted: unable to get local issuer certificate",
        "name the authority's certificate in FAREGATE_KAFKA_CA_FILE",
    ),
    "a mechanism that it has not": (
        "SECURE",
        {"kafka_sasl_mechanism": "SCRAM-SHA-256"},
        "does not take SCRAM-SHA-256",
        "set FAREGATE_KAFKA_SASL_MECHANISM",
    ),
    "no certificate of ours": (
        "MUTUAL",
        {"kafka_cert_file": "", "kafka_key_file": ""},
        "or it wants the certificate of a client",
        "FAREGATE_KAFKA_CERT_FILE and FAREGATE_KAFKA_KEY_FILE",
    ),
    "TLS without SASL": (
        "SECURE",
        {"kafka_security_protocol": "SSL", "kafka_sasl_username": "", "kafka_sasl_password": ""},
        "ends the connection: it may not speak SSL",
        "set FAREGATE_KAFKA_SECURITY_PROTOCOL",
    ),
    "neither": (
        "CLEAR",
        {
            "kafka_security_protocol": "",
            "kafka_sasl_username": "",
            "kafka_sasl_password": "",
        },
        "ends the connection: it may not speak PLAINTEXT",
        "set FAREGATE_KAFKA_SECURITY_PROTOCOL",
    ),
}


@pytest.mark.parametrize("name", WRONG)
async def test_why_it_does_not_let_us_in(place: Place, name: str) -> None:
    listener, settings, why, fix = WRONG[name]
    said = await place.commands(listener, **settings).json("topics", "apply", code=3)
    assert "FAREGATE_KAFKA) is there, but does not let us in: " in said["message"]
    assert why in said["message"]
    assert fix in said["fix"]
    assert "cannot be reached" not in said["message"]
    assert not any(p in json.dumps(said) for p in (PASSWORD, "not-this-one"))


COMMANDS = (
    "doctor --json",
    "tail usage --json",
    "top --once --json",
    "trigger UsageRecordedV1 --json",
    "verify --json",
    "dlq list usage.recorded --json",
    "run relay",
    "run deduction",
    "streams burn",
    "serve",
)


@pytest.mark.parametrize("command", COMMANDS)
async def test_every_command_says_that_the_password_is_wrong(place: Place, command: str) -> None:
    env = place.env(kafka_sasl_password="not-this-one")
    process = await asyncio.create_subprocess_exec(
        *faregate(), *command.split(),
        env={"PATH": "/usr/bin:/bin"} | env,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    async with asyncio.timeout(REFUSED_S):
        output = (await process.communicate())[0].decode()
    assert process.returncode == 3, output
    assert f"refuses user '{USER}' with this password" in output
    assert "correct FAREGATE_KAFKA_SASL_USERNAME and FAREGATE_KAFKA_SASL_PASSWORD" in output
    assert "not-this-one" not in output


async def test_the_sdk_says_it_too(place: Place) -> None:
    wrong: dict[str, Any] = place.sdk
    wrong["kafka"]["sasl_plain_password"] = "not-this-one"
    where = place.cluster.bootstrap
    with pytest.raises(KafkaRefused, match="refuses user") as refused:
        async with Publisher(where, "/tests", **wrong):
            pass
    assert isinstance(refused.value, KafkaConnectionError)
    assert refused.value.what == "login"
    subscriber = Subscriber(where, f"{place.prefix}app", **wrong)
    subscriber.on(PipelineInitiatedV1)(_nothing)
    with pytest.raises(KafkaRefused, match="refuses user"):
        await subscriber.run()
    with pytest.raises(TopicsFailed, match="refuses user"):
        await apply_topics(where, **wrong)


async def _nothing(_data: PipelineInitiatedV1, _event: Event) -> None:
    return


async def test_a_kafka_that_is_away_is_away(place: Place) -> None:
    said = await place.commands(kafka="127.0.0.1:1").json("topics", "apply", code=3)
    assert "Kafka cannot be reached at 127.0.0.1:1" in said["message"]
