"""From a Kafka record to a command: decode, validate, and name it by keyed hashes.

Everything here is done before any lock is taken (rule 3).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aiokafka import ConsumerRecord

from faregate.events import (
    Event,
    EventData,
    InvalidRecord,
    PipelineFinishedV1,
    PipelinePhaseCompletedV1,
    PipelineRequestedV1,
    UsageRecordedV1,
    UserRegisteredV1,
)
from faregate.events.codec import decode, parse
from faregate.events.fields import ID_PATTERN
from faregate.ledger.batch import Refs, Submission
from faregate.ledger.core import (
    Command,
    Finished,
    Identity,
    PhaseCompleted,
    Register,
    Request,
    Usage,
)
from faregate.ledger.keys import Keys


def read(record: ConsumerRecord, keys: Keys, types: Sequence[str]) -> Submission:
    """Turn a record into a command. Raises InvalidRecord for what can never be processed.

    `types` are those of the record's topic: who may write to it may say that, and nothing else.
    """
    event = decode(record.value, record.headers)
    make = _MAKERS.get(event.type)
    if make is None or event.type not in types:
        known = ", ".join(types)
        message = f"{event.type!r} does not belong on this topic; known: {known}"
        raise InvalidRecord("unknown_type", message)
    data = parse(event)
    try:
        return Submission(make(keys, event, data), _refs(event, data))
    except UnicodeEncodeError as error:
        raise InvalidRecord("invalid_data", "text that is not valid Unicode") from error


def is_completion(submission: Submission) -> bool:
    """Tell whether it says that a phase is done, which a request can rest on."""
    return isinstance(submission.command, PhaseCompleted)


def _refs(event: Event, data: Any) -> Refs:
    fields = data.__dict__  # a model answers slowly when asked for a field that it has not
    pipeline_id = fields.get("pipeline_id")
    return Refs(
        event.source,
        event.id,
        pipeline_id,
        fields.get("usage_id"),
        fields.get("batch_id"),
        event.correlationid or pipeline_id,
        event.traceparent,
        event.tracestate,
    )


def _identity(keys: Keys, event: Event, usage_id: str | None = None) -> Identity:
    return Identity(
        keys.event(event.source, event.id),
        keys.fingerprint(event.type, event.data),
        keys.usage(event.source, usage_id) if usage_id is not None else None,
    )


def _org(org_id: str | None) -> str | None:
    return None if org_id is None else f"org:{org_id}"


def _request(keys: Keys, event: Event, data: PipelineRequestedV1) -> Command:
    return Request(
        _identity(keys, event),
        f"user:{data.user_id}",
        _org(data.org_id),
        keys.pipeline(data.pipeline_id),
        data.pipeline,
        keys.batch(data.batch_id),
        data.items,
        tuple(data.phases) if data.phases else None,
        data.expires_at,
    )


def _usage(keys: Keys, event: Event, data: UsageRecordedV1) -> Command:
    return Usage(
        _identity(keys, event, data.usage_id),
        f"user:{data.user_id}",
        _org(data.org_id),
        keys.pipeline(data.pipeline_id) if data.pipeline_id is not None else None,
        data.occurred_at,
        data.byok,
        data.phase,
        data.units,
        data.provider,
        data.model,
        data.input_tokens,
        data.output_tokens,
    )


def _phase_completed(keys: Keys, event: Event, data: PipelinePhaseCompletedV1) -> Command:
    return PhaseCompleted(
        _identity(keys, event),
        f"user:{data.user_id}",
        _org(data.org_id),
        keys.pipeline(data.pipeline_id),
        keys.batch(data.batch_id),
        data.phase,
        data.items,
    )


def _finished(keys: Keys, event: Event, data: PipelineFinishedV1) -> Command:
    return Finished(
        _identity(keys, event),
        f"user:{data.user_id}",
        _org(data.org_id),
        keys.pipeline(data.pipeline_id),
        data.status,
        data.usage_events,
    )


def _register(keys: Keys, event: Event, data: UserRegisteredV1) -> Command:
    """Leave the e-mail address behind here; an org that is named pays nothing."""
    return Register(
        _identity(keys, event),
        f"user:{data.user_id}",
        bool(data.email_verified),
        data.referral,
        _referrer(data.referral),
    )


def _referrer(referral: str | None) -> str | None:
    """Give the user who sent them: `user:<id>`; any other referral is a campaign's name."""
    kind, _, user_id = (referral or "").partition(":")
    return referral if kind == "user" and re.search(ID_PATTERN, user_id) else None


_Maker = Callable[[Keys, Event, Any], Command]
_MAKERS: Mapping[str, _Maker] = {
    "PipelineRequestedV1": _request,
    "PipelinePhaseCompletedV1": _phase_completed,
    "PipelineFinishedV1": _finished,
    "UsageRecordedV1": _usage,
    "UserRegisteredV1": _register,
}

__all__ = ["EventData", "read"]
