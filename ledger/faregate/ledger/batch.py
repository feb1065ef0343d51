"""What goes into the store, and what a batch of it needs to have loaded."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from faregate.events.records import dataclass
from faregate.ledger.core import (
    AddGrant,
    Allocate,
    ChargeUnpriced,
    CloseHold,
    Command,
    Deduct,
    Finished,
    PhaseCompleted,
    Refresh,
    Refund,
    Register,
    Release,
    Request,
    Reserve,
    Revoke,
    SetAlerts,
    SetBalance,
    SetMember,
    SetPolicy,
    SetQuota,
    SetTier,
    Settle,
    Unlock,
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
    tracestate: str | None = None


@dataclass(frozen=True, slots=True)
class Submission:
    """A command with its caller's references.

    `actor` is who does an administrative act: it goes into the audit log, refused or not.
    """

    command: Command
    refs: Refs
    actor: str | None = None


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
    pairs: set[tuple[str, str]]
    """Orgs and users whose member account matters, if there is one."""
    members: set[tuple[str, str]]
    """Of these, those whose member account is made where it is missing."""


def needs_of(commands: Sequence[Command]) -> Needs:
    """Collect what `commands` can touch; payers of known holds are found by the lock itself."""
    needs = Needs(set(), set(), set(), set(), set(), set(), set())
    for command in commands:
        needs.events.add(command.identity.event_key)
        if command.identity.usage_key is not None:
            needs.usages.add(command.identity.usage_key)
        _collect(needs, command.usage if isinstance(command, ChargeUnpriced) else command)
    return needs


def _collect(needs: Needs, command: Command) -> None:
    match command:
        case (
            Usage()
            | Request()
            | PhaseCompleted()
            | Finished()
            | Deduct()
            | Reserve()
            | Settle()
            | Release()
        ):
            _collect_work(needs, command)
        case (
            SetBalance() | AddGrant() | Revoke() | SetTier() | SetQuota() | SetAlerts() | Refresh()
        ):
            needs.subjects.add(command.subject)
        case SetPolicy():
            needs.subjects.add(command.org)
        case Register() | Unlock():
            needs.subjects.add(command.user)
            if isinstance(command, Register) and command.referrer:
                needs.subjects.add(command.referrer)
        case CloseHold():
            needs.pipelines.add(command.pipeline_key)
        case SetMember() | Allocate() | Refund():
            _collect_member(needs, command)
        case ChargeUnpriced():
            pass  # its usage was collected


def _collect_member(needs: Needs, command: SetMember | Allocate | Refund) -> None:
    if isinstance(command, Refund):  # its outcome names user and org, whoever had paid
        named = (command.parts[0].subject, command.user, command.org)
        needs.subjects.update(filter(None, named))
        if len(command.parts) == 1:
            return
    if command.org and command.user:
        needs.subjects.update((command.org, command.user))
        needs.pairs.add((command.org, command.user))
        if not isinstance(command, Refund):
            needs.members.add((command.org, command.user))


def _collect_work(
    needs: Needs,
    command: Usage | Request | PhaseCompleted | Finished | Deduct | Reserve | Settle | Release,
) -> None:
    needs.subjects.add(command.user)
    if command.org is not None:
        needs.subjects.add(command.org)
        needs.pairs.add((command.org, command.user))
    if isinstance(command, Deduct):
        return
    if command.pipeline_key is not None:
        needs.pipelines.add(command.pipeline_key)
    if isinstance(command, Request | PhaseCompleted):
        needs.batches.add((command.org or command.user, command.batch_key))


__all__ = ["Finished", "Needs", "Offset", "Position", "Refs", "Submission", "Usage", "needs_of"]
