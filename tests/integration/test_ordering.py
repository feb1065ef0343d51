"""The contract from outside: raw CloudEvents in, the contract's events out, in order."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from aiokafka import AIOKafkaProducer
from tests.helpers.kafka import Raw, binary_headers, plain_producer, send
from tests.helpers.proof import prove
from tests.helpers.servers import Stack
from tests.helpers.world import World, completed, delete_topics, finished, world

from faregate.events import to_credits
from faregate.events.topics import apply_topics

pytestmark = pytest.mark.stack

ALL = ("entitlements", "deduction", "progress", "relay", "sweeper")
GROUPS = ("entitlements", "deduction", "progress")


def _as_binary(record: Raw) -> Raw:
    """The same event in binary mode."""
    event = json.loads(record.value or b"")
    headers = binary_headers(
        event["type"], event["id"], event["source"], correlationid="corr", traceparent="00-a-b-01"
    )
    return replace(record, value=json.dumps(event["data"]).encode(), headers=headers)


@pytest.mark.parametrize("mode", ["structured", "binary"])
async def test_a_pipeline_from_request_to_release(here: World, mode: str) -> None:
    await here.ledger.set_balance("org:acme", 100)
    request = here.request("p1", "alice", org="acme", batch_id="b1")
    refused = here.request("p2", "alice", org="acme", batch_id="b2", items=100)
    usage = [here.usage("alice", org="acme", pipeline="p1", units=10) for _ in range(3)]
    done = [
        completed("b1", "cj_assessment", "p1", org_id="acme"),
        finished("p1", org_id="acme", usage_events=3),
    ]
    wrap = _as_binary if mode == "binary" else lambda record: record
    async with here.running(*ALL, hold_grace_s=0.5):
        await here.send(wrap(request), wrap(refused))
        await here.settled(*GROUPS)
        await here.send(*map(wrap, usage))
        await here.settled(*GROUPS)
        await here.send(*map(wrap, done))
        await here.settled(*GROUPS)
        announced = await prove(here, *GROUPS)
    told = {(t, k.decode(), e.type): e for t, k, e in announced}
    first = told["pipeline.initiated", "org:acme", "PipelineInitiatedV1"]
    assert (first.data["payer"], first.data["reserved_credits"]) == ("org:acme", 45)
    denial = told["pipeline.denied", "org:acme", "PipelineDeniedV1"].data
    assert (denial["reason"], denial["required_credits"]) == ("insufficient_credits", 4950)
    assert first.causationid == "p1"
    assert first.correlationid == ("corr" if mode == "binary" else "p1")
    kinds = [e.data["kind"] for t, _, e in announced if t == "credits.ledger"]
    assert kinds == ["adjustment", "hold", "usage", "usage", "usage", "release"]
    assert (await here.ledger.balance("org:acme")).available == 70


async def test_debt_and_its_payment_are_announced(here: World) -> None:
    async with here.running(*ALL):
        await here.send(here.usage("bob", units=7), here.usage("bob", phase="nobody prices this"))
        here.usages.popitem()  # kept, not charged
        await here.settled(*GROUPS)
        await here.ledger.grant("user:bob", 10)
        await here.settled(*GROUPS)
        announced = await here.announced()
    types = {(t, k, e.type) for t, k, e in announced}
    assert ("credits.alerts", b"user:bob", "DebtIncurredV1") in types
    assert ("credits.alerts", b"user:bob", "UsageUnpricedV1") in types
    assert ("credits.ledger", b"user:bob", "DebtPaidV1") in types
    assert (await here.ledger.balance("user:bob")).balance == 3


async def test_a_completion_acknowledged_before_a_request_is_always_seen(here: World) -> None:
    rounds = 200
    await here.ledger.set_balance("user:alice", 1_000_000)
    async with (
        here.running("entitlements", "progress", "relay"),
        plain_producer(here.kafka) as producer,
    ):
        for n in range(rounds):
            for record in (
                completed(f"b{n}", "cj_assessment", f"q{n}"),
                here.request(f"q{n}", "alice", batch_id=f"b{n}"),
            ):
                await producer.send_and_wait(
                    here.prefix + record.topic,
                    record.value,
                    record.key,
                    headers=list(record.headers),
                )
        announced = await prove(here, "entitlements", "progress")
    pruned = [e.data["pruned_phases"] for _, _, e in announced if e.type == "PipelineInitiatedV1"]
    assert pruned == [["cj_assessment"]] * rounds
    assert (await here.ledger.balance("user:alice")).held == 0


async def test_a_long_backlog_of_progress_is_read_before_the_first_request(
    stack: Stack, database_url: str
) -> None:
    """More of it than one transaction may write: it is worked off in batches, on the way."""
    largest = "SELECT max(n) FROM (SELECT count(*) AS n FROM outcomes GROUP BY id >> 14) AS t"
    async with world(stack.kafka, database_url, partitions=1) as here:
        await here.ledger.set_balance("user:alice", 1000)
        backlog = [completed(f"old{n}", "nlp", f"o{n}") for n in range(20_000)]
        await here.send(*backlog, completed("b", "cj_assessment", "first"))
        await here.send(here.request("first", "alice", batch_id="b"))
        async with here.running("entitlements", "relay"):
            announced = await prove(here, "entitlements")
        assert await here.pool.fetchval(largest) <= 4000, "locks are not held for long"
        (decision,) = [e for _, _, e in announced if e.type == "PipelineInitiatedV1"]
        assert decision.data["pruned_phases"] == ["cj_assessment"]


async def test_a_completion_that_came_after_a_request_does_not_prune_it(here: World) -> None:
    """As in a replay: both lie there when reading starts."""
    await here.ledger.set_balance("user:alice", 100)
    await here.send(here.request("p", "alice", batch_id="b"))
    await here.send(completed("b", "cj_assessment", "p"))
    await here.send(here.request("q", "alice", batch_id="b"))
    async with here.running("entitlements", "relay"):
        announced = await prove(here, "entitlements")
    decided = [e.data for _, _, e in announced if e.type == "PipelineInitiatedV1"]
    decisions = {data["pipeline_id"]: data for data in decided}
    assert decisions["p"]["pruned_phases"] == []
    assert decisions["q"]["pruned_phases"] == ["cj_assessment"]


async def test_what_a_transactional_producer_sends_leaves_no_lag(here: World) -> None:
    await here.ledger.set_balance("user:alice", 100)
    producer = AIOKafkaProducer(bootstrap_servers=here.kafka, transactional_id=here.prefix)
    await producer.start()
    for _ in range(3):
        async with producer.transaction():
            record = here.usage()
            await producer.send(
                here.prefix + record.topic, record.value, record.key, headers=list(record.headers)
            )
    await producer.stop()
    async with here.running("deduction", "relay"):
        await here.settled("deduction")
    assert (await here.ledger.balance("user:alice")).balance == 97


async def test_a_topic_made_anew_is_read_from_its_start(here: World) -> None:
    await here.ledger.set_balance("user:alice", 100)
    async with here.running("deduction", "relay"):
        await here.send(*(here.usage() for _ in range(5)))
        await here.settled("deduction")
    await delete_topics(here.kafka, here.prefix, ["usage.recorded"])
    await apply_topics(here.kafka, prefix=here.prefix, partitions=2)
    await here.send(here.usage(), here.usage())
    async with here.running("deduction", "relay"):
        await prove(here, "deduction")
    sums = await here.pool.fetchval("SELECT sum(balance) FROM accounts")
    assert to_credits(sums) == 93


async def test_records_are_read_whatever_their_producer_compresses_them_with(here: World) -> None:
    await here.ledger.set_balance("org:acme", 100)
    for compression in (None, "gzip", "snappy", "lz4", "zstd"):
        records = [here.usage(org="acme") for _ in range(3)]
        await send(here.kafka, here.prefix, records, compression=compression)
    async with here.running("deduction", "relay"):
        await here.settled("deduction")
    assert (await here.ledger.balance("org:acme")).balance == 85
