"""Every topic: what flows through it, how it is keyed, and how long it is kept.

Input topics are kept for longer than the recovery window, because a restored database reads them
again. `pipeline.requests` and `pipeline.progress` have the same partitions and keys: whoever
decides a request reads both. No rule about money rests on a key being right.
"""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any, Literal

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from faregate.events.connecting import start
from faregate.events.data import EventData
from faregate.events.users import UserRegisteredV1

DAY_MS = 86_400_000
FOREVER = -1
DEFAULT_PARTITIONS = 6
MAX_MESSAGE_BYTES = 1_048_576
DLQ_EXTRA_BYTES = 131_072
DLQ_SUFFIX = ".dlq"
_APPEAR_S = 10.0
_FENCED_S = 30.0

_ROUTING = "org:<org_id> if there is one, else user:<user_id>"
_ACCOUNT = "the account, e.g. org:acme"


@dataclass(frozen=True)
class Topic:
    """One topic as it should be; `retention_ms` -1 keeps records for ever.

    `key` says in words what the Kafka key is; `types` are the event types that flow through it;
    `cleanup` is Kafka's cleanup.policy.
    """

    name: str
    partitions: int
    retention_ms: int
    key: str
    types: tuple[str, ...]
    cleanup: str = "delete"
    max_message_bytes: int = MAX_MESSAGE_BYTES

    def configs(self) -> dict[str, str]:
        """Give the topic's settings under Kafka's names."""
        configs = {
            "cleanup.policy": self.cleanup,
            "retention.ms": str(self.retention_ms),
            "max.message.bytes": str(self.max_message_bytes),
        }
        if self.name in INPUT_TOPICS:
            # Requests and progress are merged by time: one clock, the broker's.
            configs["message.timestamp.type"] = "LogAppendTime"
        return configs


def _topic(name: str, days: int, key: str, *types: str) -> Topic:
    retention_ms = FOREVER if days == FOREVER else days * DAY_MS
    return Topic(name, DEFAULT_PARTITIONS, retention_ms, key, types)


INPUT_TOPICS = ("pipeline.requests", "pipeline.progress", "usage.recorded", "users.registered")
"""What the engine reads; each has a dead letter queue."""

_ALL = (
    _topic("pipeline.requests", 42, _ROUTING, "PipelineRequestedV1"),
    _topic("pipeline.initiated", 14, _ROUTING, "PipelineInitiatedV1"),
    _topic("pipeline.denied", 14, _ROUTING, "PipelineDeniedV1"),
    _topic("pipeline.progress", 42, _ROUTING, "PipelinePhaseCompletedV1", "PipelineFinishedV1"),
    _topic("usage.recorded", 42, _ROUTING, "UsageRecordedV1"),
    _topic(
        "credits.ledger",
        365,
        _ACCOUNT,
        "CreditsGrantedV1",
        "CreditsHeldV1",
        "CreditsReleasedV1",
        "CreditsDeductedV1",
        "CreditsRefundedV1",
        "CreditsExpiredV1",
        "CreditsAdjustedV1",
        "DebtPaidV1",
    ),
    _topic("credits.checkpoints", FOREVER, _ACCOUNT, "LedgerCheckpointV1"),
    _topic(
        "credits.alerts",
        42,
        _ACCOUNT,
        "CreditsLowV1",
        "CreditsExhaustedV1",
        "DebtIncurredV1",
        "UsageUnpricedV1",
    ),
    _topic("users.registered", 42, "user:<user_id>", "UserRegisteredV1"),
    _topic("signals.burn", 14, _ACCOUNT, "BurnRateV1", "RunwayLowV1"),
    _topic("signals.denials", 14, _ROUTING, "DenialRateV1", "DenialSpikeV1"),
    _topic("signals.attribution", 42, _ACCOUNT, "AttributionV1"),
    _topic("signals.fraud", 90, "what is suspected, e.g. domain:example.com", "FraudSuspectedV1"),
    _topic("signals.reconcile", 42, _ACCOUNT, "ReconcileAlertV1"),
)

TOPICS: dict[str, Topic] = {topic.name: topic for topic in _ALL}
"""The topics of the contract by name, without prefix and without dead letter queues."""

TOPIC_OF_TYPE: dict[str, str] = {type_: topic.name for topic in _ALL for type_ in topic.types}
"""Where each event type is published."""


def topic_name(prefix: str, name: str) -> str:
    """Give the name on the cluster: several installations share one by their prefixes."""
    return f"{prefix}{name}"


def dlq_of(name: str) -> str:
    """Give the dead letter queue of a topic, prefixed or not."""
    return f"{name}{DLQ_SUFFIX}"


def dlq_topic(source: Topic) -> Topic:
    """Describe the dead letter queue of `source`.

    It takes records at the size limit of its source plus the headers that say what went wrong,
    and keeps them until somebody has had the time to look.
    """
    return replace(
        source,
        name=dlq_of(source.name),
        retention_ms=90 * DAY_MS,
        max_message_bytes=source.max_message_bytes + DLQ_EXTRA_BYTES,
    )


def all_topics() -> tuple[Topic, ...]:
    """Give what must exist on the cluster: the contract's topics and the dead letter queues."""
    return (*_ALL, *(dlq_topic(TOPICS[name]) for name in INPUT_TOPICS))


def routing_subject(data: EventData | Mapping[str, Any]) -> str:
    """Give the Kafka key: the account if named, else `org:<org_id>`, else `user:<user_id>`.

    Takes an event model or its JSON object. Raises ValueError when it names nobody.
    """
    if isinstance(data, UserRegisteredV1):
        return f"user:{data.user_id}"
    fields = data if isinstance(data, Mapping) else data.__dict__
    if account := fields.get("account"):
        return str(account)
    if org_id := fields.get("org_id"):
        return f"org:{org_id}"
    if user_id := fields.get("user_id"):
        return f"user:{user_id}"
    raise ValueError("the data names no account, org_id or user_id to route by")


class TopicsFailed(RuntimeError):
    """The cluster could not be asked, or refused to create a topic; the message says which."""


def no_topic(names: Iterable[str], bootstrap: str, prefix: str) -> str:
    """Say that topics are missing, and what to do about it."""
    listed = ", ".join(sorted(names))
    called = f"FAREGATE_TOPIC_PREFIX={prefix!r}" if prefix else "no FAREGATE_TOPIC_PREFIX"
    return (
        f"there is no topic {listed} at {bootstrap}, or you may not see it. Run `faregate topics "
        f"apply` with {called}, or correct the `prefix` that you gave"
    )


@dataclass(frozen=True)
class TopicChange:
    """What was done about one topic; `differences` are for a person to decide about."""

    topic: str
    action: Literal["created", "existing", "differs"]
    differences: tuple[str, ...] = ()


async def apply_topics(
    bootstrap: str,
    *,
    prefix: str = "",
    replication: int = 1,
    partitions: int | None = None,
    kafka: Mapping[str, Any] | None = None,
    topics: Iterable[Topic] | None = None,
) -> list[TopicChange]:
    """Create what is missing on the cluster at `bootstrap` ("host:port,…") and report the rest.

    `topics` defaults to `all_topics`; `partitions` replaces the default for every one of them. Partitions are never added or removed and
    settings never changed: both are reported as differences. `kafka` goes to aiokafka (TLS, SASL).
    Raises TopicsFailed when the cluster cannot be reached or refuses.
    """
    chosen = all_topics() if topics is None else topics
    wanted = {topic_name(prefix, topic.name): topic for topic in chosen}
    admin = AIOKafkaAdminClient(**{**(kafka or {}), "bootstrap_servers": bootstrap})
    try:
        await start(admin.start, bootstrap, kafka)
        present = await _present(admin)
        missing = {name: topic for name, topic in wanted.items() if name not in present}
        created = await _create(admin, missing, partitions, replication)
        if created:
            await _appear(admin, created)
        kept = {name: topic for name, topic in wanted.items() if name not in created}
        found = await _differences(admin, kept, present, partitions) if kept else {}
    except (KafkaError, OSError, TimeoutError) as error:
        message = f"topics could not be applied on {bootstrap}: {error or type(error).__name__}"
        raise TopicsFailed(message) from error
    finally:
        await admin.close()
    return [_change(name, created, found) for name in wanted]


def _change(name: str, created: set[str], found: Mapping[str, tuple[str, ...]]) -> TopicChange:
    if name in created:
        return TopicChange(name, "created")
    differences = found.get(name, ())
    return TopicChange(name, "differs" if differences else "existing", differences)


async def partitions_of(
    bootstrap: str, *, kafka: Mapping[str, Any] | None = None
) -> dict[str, int]:
    """Give how many partitions each topic of the cluster has, by full name; asks only.

    Raises TopicsFailed when the cluster cannot be reached.
    """
    admin = AIOKafkaAdminClient(**{**(kafka or {}), "bootstrap_servers": bootstrap})
    try:
        await start(admin.start, bootstrap, kafka)
        return await _present(admin)
    except (KafkaError, OSError, TimeoutError) as error:
        message = f"topics could not be listed on {bootstrap}: {error or type(error).__name__}"
        raise TopicsFailed(message) from error
    finally:
        await admin.close()


async def _present(admin: AIOKafkaAdminClient) -> dict[str, int]:
    """Give name → partitions. Asks for all: asking by name may create a topic by accident."""
    return {found["topic"]: len(found["partitions"]) for found in await admin.describe_topics()}


async def _create(
    admin: AIOKafkaAdminClient,
    missing: Mapping[str, Topic],
    partitions: int | None,
    replication: int,
) -> set[str]:
    """Create the topics; give those that nobody else created in between.

    Brokers that have only just started, or stood still, are shut out ("fenced") for a moment.
    """
    made: set[str] = set()
    waiting, until = dict(missing), monotonic() + _FENCED_S
    while waiting:
        refused = await _ask_to_create(admin, waiting, partitions, replication)
        made |= waiting.keys() - refused.keys()
        waiting = {name: missing[name] for name, why in refused.items() if why is not None}
        reasons = [f"{name}: {why}" for name, why in refused.items() if why]
        if any("fenced" not in why for why in reasons) or (reasons and monotonic() > until):
            more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
            raise TopicsFailed(f"the cluster refused to create {reasons[0]}{more}")
        if waiting:
            await asyncio.sleep(_FENCED_S / 60)
    return made


async def _ask_to_create(
    admin: AIOKafkaAdminClient,
    wanted: Mapping[str, Topic],
    partitions: int | None,
    replication: int,
) -> dict[str, str | None]:
    """Give why a topic was not created, for each that was not; None: it exists already."""
    response = await admin.create_topics(
        [
            NewTopic(name, partitions or topic.partitions, replication, None, topic.configs())
            for name, topic in wanted.items()
        ]
    )
    refused: dict[str, str | None] = {}
    # create_topics does not raise: each topic has its own error code (36: exists already).
    for name, code, *rest in response.topic_errors:
        if code == TopicAlreadyExistsError.errno:
            refused[name] = None
        elif code:
            refused[name] = f"{for_code(code).__name__} {(rest or [''])[0] or ''}".rstrip()
    return refused


async def _appear(admin: AIOKafkaAdminClient, created: set[str]) -> None:
    """Wait a while until a broker knows them: it may learn of a topic after it was created."""
    until = monotonic() + _APPEAR_S
    while monotonic() < until:
        if created <= (await _present(admin)).keys():
            return
        await asyncio.sleep(_APPEAR_S / 200)


async def _differences(
    admin: AIOKafkaAdminClient,
    kept: Mapping[str, Topic],
    present: Mapping[str, int],
    partitions: int | None,
) -> dict[str, tuple[str, ...]]:
    configs = await _configs(admin, kept)
    return {
        name: (
            *_partition_difference(present.get(name), partitions or topic.partitions),
            *_config_differences(configs.get(name, {}), topic.configs()),
        )
        for name, topic in kept.items()
    }


def _partition_difference(present: int | None, wanted: int) -> list[str]:
    if present is None or present >= wanted:
        return []
    return [f"{present} partitions, wanted {wanted} (adding some moves keys: do it while idle)"]


def _config_differences(present: Mapping[str, str], wanted: Mapping[str, str]) -> list[str]:
    return [
        f"{key} is {present[key]}, wanted {value}"
        for key, value in wanted.items()
        if key in present and present[key] != value
    ]


async def _configs(admin: AIOKafkaAdminClient, names: Iterable[str]) -> dict[str, dict[str, str]]:
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    configs = {}
    for response in await admin.describe_configs(resources):
        for code, message, _kind, name, entries in response.resources:
            if code:
                error = f"{name}: {for_code(code).__name__} {message or ''}".rstrip()
                raise TopicsFailed(f"the settings of a topic could not be read: {error}")
            configs[name] = {entry[0]: entry[1] for entry in entries}
    return configs
