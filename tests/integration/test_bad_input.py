"""What can never be processed ends in `<topic>.dlq`, untouched and explained; its neighbours do
not notice. All of it goes through real Kafka, into one partition, between good records."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiokafka.consumer import fetcher
from tests.helpers.kafka import (
    CONTENT_TYPE,
    Raw,
    plain_producer,
    send,
    send_with_header_name,
    structured,
)
from tests.helpers.ledger import initiated
from tests.helpers.proof import prove
from tests.helpers.servers import Stack
from tests.helpers.world import World, completed, finished, raw, world

from faregate.events.topics import MAX_MESSAGE_BYTES

pytestmark = pytest.mark.stack

CONSUMERS = ("entitlements", "deduction", "progress")
NOW = datetime.now(UTC).isoformat()
USAGE = {"usage_id": "u", "user_id": "eve", "phase": "cj_assessment", "units": 1}
USAGE["occurred_at"] = NOW
REQUEST = {"pipeline_id": "bad", "pipeline": "cj_assessment", "user_id": "eve", "items": 10}
REQUEST["batch_id"] = "b"
FULL = MAX_MESSAGE_BYTES - 200  # Kafka's own bytes of the record and its batch
JSON_NUMBERS = ("0", "-1", "1.5", "NaN", "1e400", str(2**63), "true", '"1"', "null", "[1]")


@dataclass(frozen=True)
class Bad:
    """A record, and the errors it may end with."""

    name: str
    record: Raw
    errors: tuple[str, ...]


def _usage(name: str, error: str, **changed: Any) -> Bad:
    data = {**USAGE, "usage_id": f"u {name}", **changed}
    data = {k: v for k, v in data.items() if v != "absent"}
    return Bad(name, _record("usage.recorded", "UsageRecordedV1", data, name), (error,))


def _record(topic: str, type_: str, data: dict[str, Any], name: str, **more: Any) -> Raw:
    return Raw(topic, structured(type_, data, f"bad {name}", **more), b"user:eve", (CONTENT_TYPE,))


def _bytes(name: str, value: bytes | None, *errors: str) -> Bad:
    return Bad(name, Raw("usage.recorded", value, b"user:eve", (CONTENT_TYPE,)), errors)


def _number(topic: str, type_: str, data: dict[str, Any], field: str, literal: str) -> Bad:
    """Write a number as no JSON library would."""
    name = f"{field} {literal}"
    marked = structured(type_, {**data, "usage_id": name, field: "MARK"}, name)
    value = marked.replace(b'"MARK"', literal.encode())
    record = Raw(topic, value, b"user:eve", (CONTENT_TYPE,))
    return Bad(name, record, ("invalid_data", "invalid_json"))


def _table() -> list[Bad]:
    good = structured("UsageRecordedV1", USAGE, "x")
    return [
        _bytes("random bytes", bytes(range(256)), "invalid_json"),
        _bytes("bad UTF-8", good.replace(b"eve", b"ev\xff"), "invalid_json"),
        _bytes("bad JSON", good[:-1], "invalid_json"),
        _bytes("two values", good + good, "invalid_json"),
        _bytes("deep JSON", b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "invalid_json"),
        _bytes("deep array", b"[" * 10_000 + b"]" * 10_000, "invalid_json"),
        _bytes("an array", b"[]", "invalid_envelope"),
        _bytes("tombstone", None, "empty_record"),
        _bytes("empty", b"", "empty_record"),
        _bytes("full size", b"\x00" * FULL, "invalid_json"),
        _bytes("a number of 5,000 digits", good.replace(b'"units"', b'"x": ' + b"9" * 5000 + b', "units"'),
               "invalid_json", "invalid_data"),
        _bytes("a lone surrogate", good.replace(b"eve", b"\\ud800"), "invalid_json"),
        _bytes("not an event", b'{"hello": "world"}', "invalid_envelope"),
        _usage("NUL in an id", "invalid_data", user_id="ev\x00e"),
        _usage("bidi in an id", "invalid_data", user_id="ev\u202ee"),
        _usage("zero width in an id", "invalid_data", usage_id="u\u200b1"),
        _usage("an id too long", "invalid_data", user_id="e" * 201),
        _usage("user_id a number", "invalid_data", user_id=7),
        _usage("user_id missing", "invalid_data", user_id="absent"),
        _usage("units missing", "invalid_data", units="absent"),
        _usage("byok a string", "invalid_data", byok="yes"),
        _usage("a naive time", "invalid_data", occurred_at="2026-01-01T00:00:00"),
        _usage("too old", "occurred_at_out_of_range",
               occurred_at=(datetime.now(UTC) - timedelta(days=36)).isoformat()),
        _usage("too far ahead", "occurred_at_out_of_range",
               occurred_at=(datetime.now(UTC) + timedelta(minutes=6)).isoformat()),
        _usage("year 1", "occurred_at_out_of_range", occurred_at="0001-01-02T00:00:00Z"),
        _usage("the first moment of all", "invalid_data", occurred_at="0001-01-01T00:00:00Z"),
        _usage("year 9999", "occurred_at_out_of_range", occurred_at="9999-12-31T23:59:59Z"),
        _usage("another user than the hold's", "payer_mismatch", pipeline_id="held"),
        _usage("another org than the hold's", "payer_mismatch", pipeline_id="held",
               user_id="hanna", org_id="evil"),
        Bad("an unknown version",
            _record("usage.recorded", "UsageRecordedV2", USAGE, "version"), ("unknown_type",)),
        Bad("an unknown specversion",
            _record("usage.recorded", "UsageRecordedV1", USAGE, "spec", specversion="0.3"),
            ("invalid_envelope",)),
        Bad("NUL in the event id",
            Raw("usage.recorded", structured("UsageRecordedV1", USAGE, "a\x00"), b"k"),
            ("invalid_envelope",)),
        Bad("a content type that is none",
            Raw("usage.recorded", good, b"k", (("content-type", b"avro/binary"),)),
            ("unsupported_content_type",)),
        Bad("bad headers",
            Raw("usage.recorded", b"{}", b"k", (("ce_id", b"\xff"), ("ce_type", b"x"))),
            ("invalid_envelope",)),
        Bad("a request with phases twice",
            _record("pipeline.requests", "PipelineRequestedV1",
                    {**REQUEST, "phases": ["nlp", "nlp"]}, "twice"), ("invalid_data",)),
        Bad("a finish of somebody else's",
            replace(finished("held", "eve"), key=b"user:eve"), ("payer_mismatch",)),
        Bad("a completion of somebody else's", completed("b", "nlp", "held", "eve"),
            ("payer_mismatch",)),
        *(_number("usage.recorded", "UsageRecordedV1", USAGE, "units", n) for n in JSON_NUMBERS),
        *(_number("pipeline.requests", "PipelineRequestedV1", REQUEST, "items", n)
          for n in JSON_NUMBERS),
    ]  # fmt: skip


@pytest.fixture
async def here(stack: Stack, database_url: str) -> AsyncIterator[World]:
    async with world(stack.kafka, database_url, partitions=1) as made:
        yield made


async def test_every_bad_record_is_set_apart_and_its_neighbours_are_processed(
    here: World,
) -> None:
    await here.ledger.set_balance("user:alice", 1000)
    await here.ledger.set_balance("user:hanna", 45)
    held = here.request("held", "hanna")
    table = _table()
    async with here.running(*CONSUMERS, "relay"):
        await here.send(held)
        await here.settled("entitlements")
        records = []
        for bad in table:
            records += [bad.record, here.usage("alice")]
        places = await here.send(*records, here.request(user="alice"))
        announced = await prove(here, *CONSUMERS)
    letters = {
        (topic, r.partition, int(dict(r.headers)["faregate-offset"])): r
        for topic in ("usage.recorded", "pipeline.requests", "pipeline.progress")
        for r in await here.dead(topic)
    }
    for bad, place in zip(table, places[::2], strict=False):
        letter = letters.pop((bad.record.topic, *place))
        _explained(here, bad, letter, place)
    assert letters == {}, "and nothing else is in the queues"
    eve = [e for _, _, e in announced if e.data.get("user_id") == "eve"]
    assert eve == [], "nothing came of the bad records"
    assert (await here.ledger.balance("user:hanna")).held == 45


def _explained(here: World, bad: Bad, letter: Any, place: tuple[int, int]) -> None:
    headers = dict(letter.headers)
    assert (letter.value, letter.key) == (bad.record.value, bad.record.key), bad.name
    assert headers["faregate-error"].decode() in bad.errors, bad.name
    assert headers["faregate-topic"].decode() == here.prefix + bad.record.topic
    assert (int(headers["faregate-partition"]), int(headers["faregate-offset"])) == place
    assert headers["faregate-attempts"] == b"1"
    assert headers["faregate-message"].decode()
    assert datetime.fromisoformat(headers["faregate-first-seen"].decode()).tzinfo
    for name, value in bad.record.headers:
        assert headers[name] == value, bad.name


async def test_an_identity_used_again_with_other_content_is_set_apart(here: World) -> None:
    await here.ledger.set_balance("user:alice", 1000)
    first = here.usage("alice", units=1, usage_id="once")
    odd = json.loads(first.value or b"")
    odd["data"]["units"] = 100
    same_usage = json.loads(first.value or b"")
    same_usage["id"], same_usage["data"]["units"] = "another id", 100
    async with here.running("deduction", "relay"):
        await here.send(first, first, replace(first, value=json.dumps(odd).encode()), first)
        await here.send(replace(first, value=json.dumps(same_usage).encode()), here.usage("alice"))
        await prove(here, "deduction")
    letters = await here.dead("usage.recorded")
    errors = [dict(r.headers)["faregate-error"] for r in letters]
    assert errors == [b"idempotency_conflict"] * 2
    assert (await here.ledger.balance("user:alice")).balance == 998


async def test_a_missing_or_wrong_key_changes_nothing(here: World) -> None:
    await here.ledger.set_balance("org:acme", 145)
    asked = here.request(org="acme")
    used = here.usage("alice", org="acme", units=5)
    async with here.running(*CONSUMERS, "relay"):
        await here.send(replace(asked, key=None), replace(used, key=b"\xff\x00wrong"))
        await prove(here, *CONSUMERS)
    balance = await here.ledger.balance("org:acme")
    assert (balance.balance, balance.held) == (140, 45)


async def test_one_value_that_the_database_refuses_costs_only_itself(here: World) -> None:
    """`usage_events` has no upper bound in the contract; a bigint has."""
    await here.ledger.set_balance("user:alice", 2000)
    assert initiated(await here.ledger.request("huge", user="alice"))
    bad = finished("huge", usage_events=2**63)
    records = [finished(f"other {n}") for n in range(1000)]
    await here.send(*records[:600], bad, *records[600:])
    async with here.running("progress", "relay"):
        await here.settled("progress")
    letters = await here.dead("pipeline.progress")
    assert [dict(r.headers)["faregate-error"] for r in letters] == [b"bad_value"]
    assert letters[0].value == bad.value
    recorded = "SELECT count(*) FROM outcomes WHERE command = 'finished'"
    assert await here.pool.fetchval(recorded) == 1000
    assert (await here.ledger.balance("user:alice")).held == 45


async def test_a_replayed_record_counts_its_attempts(here: World) -> None:
    seen = (("faregate-attempts", b"3"), ("faregate-first-seen", NOW.encode()), ("mine", b"1"))
    async with here.running("deduction", "relay"):
        await here.send(Raw("usage.recorded", b"still bad", b"k", seen))
        await here.settled("deduction")
    headers = dict((await here.dead("usage.recorded"))[0].headers)
    assert headers["faregate-attempts"] == b"4"
    assert headers["faregate-first-seen"] == NOW.encode()
    assert headers["mine"] == b"1"


async def test_a_type_on_the_wrong_topic_is_set_apart_or_harmless(here: World) -> None:
    """A type belongs to its topic: who may write there may say that, and nothing else."""
    await here.ledger.set_balance("user:alice", 100)
    wrong = raw("usage.recorded", "UserRegisteredV1", {"user_id": "eve"}, "wrong")
    odd = raw("usage.recorded", "CreditsGrantedV1", {"account": "user:eve", "amount": 10**6}, "g")
    async with here.running(*CONSUMERS, "relay"):
        await here.send(wrong, odd, here.usage("alice"))
        await prove(here, *CONSUMERS)
    errors = [dict(r.headers)["faregate-error"] for r in await here.dead("usage.recorded")]
    assert errors == [b"unknown_type"] * 2
    assert (await here.ledger.balance("user:eve")).balance == 0


async def test_a_header_name_that_is_not_utf8_stops_nobody(
    here: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The records before it in the same fetch are not lost either."""
    monkeypatch.setattr(fetcher, "MemoryRecords", fetcher.MemoryRecords)  # and back afterwards
    await here.ledger.set_balance("user:alice", 100)
    before, odd, after = (here.usage("alice") for _ in range(3))
    name = b"name\xff\xfename"
    async with here.running("deduction", "relay"):
        await here.settled("deduction")
        await here.send(before)
        await send_with_header_name(here.kafka, here.prefix, odd, name, b"1")
        await send_with_header_name(
            here.kafka, here.prefix, Raw("usage.recorded", b"bad", b"k"), name, b"2"
        )
        await here.send(after)
        await prove(here, "deduction")
    (letter,) = await here.dead("usage.recorded")
    assert (letter.value, dict(letter.headers)["name\\xff\\xfename"]) == (b"bad", b"2")


async def test_a_compressed_record_many_times_the_limit_fits_into_the_queue(here: World) -> None:
    record = Raw("usage.recorded", b"0" * (8 * MAX_MESSAGE_BYTES), b"k")
    async with here.running("deduction", "relay"):
        await send(here.kafka, here.prefix, [record], compression="gzip")
        await here.settled("deduction")
    (letter,) = await here.dead("usage.recorded")
    assert letter.value == record.value


async def test_records_that_a_client_can_hardly_write_are_set_apart_too(here: World) -> None:
    """Neither key nor value; a header of ours that says nothing."""
    odd = Raw("usage.recorded", b"{", b"k", (("faregate-attempts", None),), partition=0)  # type: ignore[arg-type]
    async with plain_producer(here.kafka) as producer:
        batch = producer.create_batch()
        batch.append(key=None, value=None, timestamp=None)
        batch.close()
        await (await producer.send_batch(batch, here.prefix + odd.topic, partition=0))
    await here.send(odd, here.usage("alice"))
    async with here.running("deduction", "relay"):
        await here.settled("deduction")
    letters = await here.dead("usage.recorded")
    assert sorted(letter.value or b"" for letter in letters) == [b"", b"{"]
