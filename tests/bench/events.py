"""The events that the measures are fed with: real CloudEvents, made as the SDK makes them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from uuid import uuid4

from aiokafka import AIOKafkaProducer, ConsumerRecord

from faregate.consumers import intake
from faregate.events import Event, encode
from faregate.ledger.batch import Refs, Submission
from faregate.ledger.core import AddGrant, Identity, SetBalance
from faregate.ledger.keys import Keys

ACCOUNTS = 2_000
HOT = "hot"
SOURCE = "/bench/scoring"
BALANCE_MICRO = 50_000_000 * 1_000_000
ITEMS = 2_000
"""Of each seeded pipeline: its hold is ITEMS * (ITEMS - 1) / 2 credits, more than a run uses."""
_HELD_MICRO = ITEMS * (ITEMS - 1) // 2 * 1_000_000

_numbers = count()


@dataclass(frozen=True, slots=True)
class Raw:
    """A Kafka record that is yet to be produced."""

    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]


def many(n: int) -> list[str]:
    """Give the users of `n` events, spread evenly over all accounts."""
    return [f"u{i % ACCOUNTS}" for i in range(n)]


def usage(user: str, pipeline_id: str | None = None, units: int = 1) -> Raw:
    """Make one usage event, of one credit for each unit, for the seeded pipeline of `user`."""
    number, pipeline_id = next(_numbers), pipeline_id or f"pipeline-{user}"
    data = {
        "usage_id": f"usage-{number}-{uuid4().hex[:8]}",
        "user_id": user,
        "pipeline_id": pipeline_id,
        "occurred_at": datetime.now(UTC),
        "phase": "cj_assessment",
        "units": units,
    }
    return _raw("UsageRecordedV1", f"user:{user}", data, pipeline_id)


def request(user: str, pipeline_id: str, items: int = 10) -> Raw:
    """Make a request to run `cj_assessment`; ten items reserve 45 credits."""
    data = {
        "pipeline_id": pipeline_id,
        "pipeline": "cj_assessment",
        "user_id": user,
        "batch_id": f"batch-{pipeline_id}",
        "items": items,
    }
    return _raw("PipelineRequestedV1", f"user:{user}", data, pipeline_id)


def _raw(event_type: str, key: str, data: dict[str, object], correlation_id: str) -> Raw:
    event = Event(
        id=str(uuid4()),
        source=SOURCE,
        type=event_type,
        data=data,
        time=datetime.now(UTC),
        subject=key,
        correlationid=correlation_id,
    )
    value, headers = encode(event)
    return Raw(key.encode(), value, headers)


def submission(raw: Raw, keys: Keys) -> Submission:
    """Read an event as the consumers do."""
    record = ConsumerRecord("bench", 0, 0, 0, 0, raw.key, raw.value, None, 0, 0, tuple(raw.headers))
    return intake.read(record, keys, ("UsageRecordedV1", "PipelineRequestedV1"))


def seeds(keys: Keys) -> list[Submission]:
    """Give what fills a new ledger: a balance and a live hold for each account."""
    users = [*many(ACCOUNTS), HOT]
    balances = [_balance(keys, user) for user in users]
    return balances + [submission(request(u, f"pipeline-{u}", ITEMS), keys) for u in users]


def rich_seeds(keys: Keys) -> list[Submission]:
    """Give what fills a ledger of accounts with three grants each, and a live hold over them.

    The hold takes all of the first two, which expire, and half of the third.
    """
    users = [*many(ACCOUNTS), HOT]
    grants = [_grant(keys, user, number) for user in users for number in range(3)]
    return grants + [submission(request(u, f"pipeline-{u}", ITEMS), keys) for u in users]


def _grant(keys: Keys, user: str, number: int) -> Submission:
    name = f"grant-{number}-{user}"
    identity = Identity(keys.event(SOURCE, name), keys.internal("grant", name))
    expires_at = None if number == 2 else datetime.now(UTC) + timedelta(days=30 + number)
    amount = _HELD_MICRO // 4 if number < 2 else _HELD_MICRO
    command = AddGrant(
        identity, f"user:{user}", "purchase", amount, priority=10 * number, expires_at=expires_at
    )
    return Submission(command, Refs(SOURCE))


def _balance(keys: Keys, user: str) -> Submission:
    identity = Identity(keys.event(SOURCE, f"balance-{user}"), keys.internal("balance", user))
    return Submission(SetBalance(identity, f"user:{user}", BALANCE_MICRO), Refs(SOURCE))


async def produce(bootstrap: str, topic: str, raws: Iterable[Raw]) -> None:
    """Write records to a topic and wait until all are acknowledged."""
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap, enable_idempotence=True, linger_ms=5, max_batch_size=262_144
    )
    await producer.start()
    try:
        sent = [await producer.send(topic, r.value, r.key, headers=r.headers) for r in raws]
        await asyncio.gather(*sent)
    finally:
        await producer.stop()
