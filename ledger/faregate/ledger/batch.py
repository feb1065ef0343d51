"""What goes into the store, and what a batch of it needs to have loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from faregate.ledger.core import (
    ChargeUnpriced,
    CloseHold,
    Command,
    Finished,
    Grant,
    PhaseCompleted,
    Request,
    SetBalance,
    Usage,
)


@dataclass(frozen=True, slots=True)
class Refs:
    """What the caller called things. Kept beside the outcome, erasable, never needed for money."""

    source: str
    event_id: str | None = None
    pipeline_id: str | None = None
    usage_id: str | None = None
    batch_id: str | None = None
    correlation_id: str | None = None
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class Submission:
    """A command with its caller's references."""

    command: Command
    refs: Refs


@dataclass(frozen=True, slots=True)
class Offset:
    """Where a consumer group goes on reading a partition."""

    topic_id: UUID
    partition: int
    topic: str
    next_offset: int
    known: int = 0
    """What the database kept before, as far as its reader knows."""


@dataclass(frozen=True, slots=True)
class Position:
    """The offsets that a batch brings its consumer group to, in one Kafka cluster."""

    cluster: str
    consumer: str
    offsets: Sequence[Offset]


@dataclass(slots=True)
class Needs:
    """The keys of all rows that a batch can touch."""

    subjects: set[str]
    pipelines: set[bytes]
    events: set[bytes]
    usages: set[bytes]
    batches: set[tuple[str, bytes]]


def needs_of(commands: Sequence[Command]) -> Needs:
    """Collect what `commands` can touch; payers of known holds are found by the lock itself."""
    needs = Needs(set(), set(), set(), set(), set())
    for command in commands:
        needs.events.add(command.identity.event_key)
        if command.identity.usage_key is not None:
            needs.usages.add(command.identity.usage_key)
        _collect(needs, command.usage if isinstance(command, ChargeUnpriced) else command)
    return needs


def _collect(needs: Needs, command: Command) -> None:
    if isinstance(command, SetBalance | Grant):
        needs.subjects.add(command.subject)
        return
    if isinstance(command, ChargeUnpriced):
        return
    if command.pipeline_key is not None:
        needs.pipelines.add(command.pipeline_key)
    if isinstance(command, CloseHold):
        return
    needs.subjects.add(command.user)
    if command.org is not None:
        needs.subjects.add(command.org)
    if isinstance(command, Request | PhaseCompleted):
        needs.batches.add((command.org or command.user, command.batch_key))


__all__ = ["Finished", "Needs", "Offset", "Position", "Refs", "Submission", "Usage", "needs_of"]
