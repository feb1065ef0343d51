"""Topics: the table agrees with itself, and keys follow from the payload."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest
from aiokafka.admin import NewTopic
from aiokafka.errors import InvalidReplicationFactorError, TopicAlreadyExistsError

from faregate.events import (
    EVENT_TYPES,
    INPUT_TOPICS,
    TOPIC_OF_TYPE,
    TOPICS,
    Publisher,
    Subscriber,
    UsageRecordedV1,
    UserRegisteredV1,
    all_topics,
    dlq_of,
    new_event_id,
    routing_subject,
    topic_name,
    topics,
)
from faregate.events.examples import examples
from faregate.events.topics import DAY_MS, FOREVER

if TYPE_CHECKING:
    from aiokafka.admin import AIOKafkaAdminClient


def test_every_type_has_exactly_one_topic() -> None:
    assert sorted(TOPIC_OF_TYPE) == sorted(EVENT_TYPES)
    assert sum(len(topic.types) for topic in TOPICS.values()) == len(EVENT_TYPES)


def test_what_decides_together_is_partitioned_alike() -> None:
    requests, progress = TOPICS["pipeline.requests"], TOPICS["pipeline.progress"]
    assert (requests.partitions, requests.key) == (progress.partitions, progress.key)


def test_input_outlives_the_recovery_window_and_checkpoints_everything() -> None:
    assert all(TOPICS[name].retention_ms >= 35 * DAY_MS for name in INPUT_TOPICS)
    assert TOPICS["credits.checkpoints"].retention_ms == FOREVER


def test_a_dead_letter_queue_has_room_for_the_largest_record_and_its_headers() -> None:
    by_name = {topic.name: topic for topic in all_topics()}
    for name in INPUT_TOPICS:
        dead = by_name[dlq_of(name)]
        assert dead.max_message_bytes == TOPICS[name].max_message_bytes + 128 * 1024
        assert dead.retention_ms == 90 * DAY_MS


def test_prefixes_come_before_the_name() -> None:
    assert topic_name("test-", dlq_of("usage.recorded")) == "test-usage.recorded.dlq"


@pytest.mark.parametrize(
    ("data", "key"),
    [
        ({"org_id": "a", "user_id": "b"}, "org:a"),
        ({"org_id": None, "user_id": "b"}, "user:b"),
        ({"account": "user:b", "org_id": "a"}, "user:b"),
        (UserRegisteredV1(user_id="b", org_id="a"), "user:b"),
    ],
)
def test_the_key_says_whose_it_is(data: object, key: str) -> None:
    assert routing_subject(data) == key  # type: ignore[arg-type]


def test_data_about_nobody_has_no_key() -> None:
    with pytest.raises(ValueError, match="names no account"):
        routing_subject({"user_id": ""})


@pytest.mark.parametrize("name", EVENT_TYPES)
def test_every_example_has_a_key(name: str) -> None:
    model = EVENT_TYPES[name].from_data(examples()[name].data)
    groups = ("domain:",) if name == "FraudSuspectedV1" else ("org:", "user:")
    assert routing_subject(model).startswith(groups)


def test_event_ids_are_uuids_of_version_7_in_order() -> None:
    first = uuid.UUID(new_event_id())
    assert (first.version, first.variant) == (7, uuid.RFC_4122)
    assert len({new_event_id() for _ in range(1000)}) == 1000


async def test_a_closed_publisher_says_how_to_open_it() -> None:
    publisher = Publisher("localhost:1", "/test")
    with pytest.raises(RuntimeError, match="async with"):
        await publisher.publish(UserRegisteredV1(user_id="ada"))


async def test_a_subscriber_refuses_what_it_cannot_do() -> None:
    subscriber = Subscriber("localhost:1", "group")
    with pytest.raises(RuntimeError, match="register a handler"):
        await subscriber.run()

    @subscriber.on(UsageRecordedV1)
    async def used(data: UsageRecordedV1, event: object) -> None: ...

    with pytest.raises(ValueError, match="a handler already"):
        subscriber.on(UsageRecordedV1)


class Answers:
    """A cluster that refuses with one reason after the other, and then creates."""

    def __init__(self, *refusals: str) -> None:
        self.refusals = list(refusals)
        self.asked: list[list[str]] = []

    async def create_topics(self, wanted: Sequence[NewTopic]) -> SimpleNamespace:
        names = [topic.name for topic in wanted]
        self.asked.append(names)
        reason = self.refusals.pop(0) if self.refusals else ""
        codes = {"": 0, "exists": TopicAlreadyExistsError.errno}
        code = codes.get(reason, InvalidReplicationFactorError.errno)
        first, *others = names
        return SimpleNamespace(topic_errors=[(first, code, reason), *((n, 0, "") for n in others)])


async def test_brokers_that_are_shut_out_for_a_moment_are_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(topics, "_FENCED_S", 0.6)
    wanted = {topic.name: topic for topic in all_topics()[:2]}
    one, two = wanted
    fenced = "All brokers are currently fenced."

    async def create(cluster: Answers) -> set[str]:
        return await topics._create(cast("AIOKafkaAdminClient", cluster), wanted, None, 1)

    cluster = Answers(fenced, fenced)
    assert await create(cluster) == {one, two}
    assert cluster.asked == [[one, two], [one], [one]]
    cluster = Answers(fenced, "exists")
    assert await create(cluster) == {two}, "somebody else created it meanwhile"
    with pytest.raises(topics.TopicsFailed, match="fenced"):
        await create(Answers(*[fenced] * 1_000))
    with pytest.raises(topics.TopicsFailed, match="only 1 broker"):
        await create(Answers("only 1 broker"))
