"""The money of one call: reserved before it, settled or released after it, whatever happens.

The hold is short-lived (the call's time-out and a margin): if this process is killed, the sweeper
closes it. Settling is tried again for as long as the database is away; the charge is the same.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import structlog

from faregate.gateway.answers import accepted, rejection
from faregate.gateway.callers import Payer
from faregate.gateway.context import VIA, Gateway
from faregate.gateway.llm.asked import Asked
from faregate.gateway.llm.reported import Used
from faregate.gateway.problems import Problem
from faregate.gateway.stored import Stored, read_back
from faregate.ledger.acts_sending import identity
from faregate.ledger.batch import Refs, Submission
from faregate.ledger.core import (
    Identity,
    Outcome,
    Quota,
    Rejected,
    Release,
    Reserve,
    Seen,
    Settle,
    Usage,
)
from faregate.ledger.database import TRANSIENT, TurnedAway
from faregate.ledger.store import BadValue

log = structlog.get_logger("faregate.gateway")

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0
_PATIENCE_S = 600.0


@dataclass(frozen=True, slots=True)
class Settled:
    """What a call came to, in micro-credits: charged, and left to its payer."""

    cost: int
    remaining: int


@dataclass(frozen=True, slots=True)
class Fare:
    """A call that was let in. `provider` is set where the caller's own key pays."""

    gateway: Gateway
    payer: Payer
    hold: UUID
    asked: Asked
    provider: str | None
    available: int
    """What the payer had left with the hold made, in micro-credits."""
    quota: Quota | None = None
    """What the caller has left of their calls, this one counted."""

    @property
    def usage_id(self) -> str:
        """What the call is called in the ledger."""
        return f"llm-{self.hold}"

    async def settle(self, used: Used, reference: str | None) -> Settled | None:
        """Charge what was used and release the rest; None where the ledger refuses it.

        Tries again while the database is away, for ten minutes.
        """
        submission = self._settlement(used, reference)
        said = {"hold": str(self.hold), "tokens": [used.input_tokens, used.output_tokens]}
        stored = await _insisting(self._answered(submission), "llm_unsettled", **said)
        return None if stored is None else _settled(stored)

    async def release(self) -> None:
        """Give everything back. Tries again while the database is away."""
        named = self._named("release", {})
        command = Release(named, self.payer.user, self.payer.org, self.hold.bytes)
        refs = Refs(VIA, f"release {self.usage_id}", str(self.hold))
        await _insisting(
            self._answered(Submission(command, refs)), "llm_unreleased", hold=str(self.hold)
        )

    def _settlement(self, used: Used, reference: str | None) -> Submission:
        key = f"settle {self.usage_id}"
        usage_key = self.gateway.store.keys.usage(VIA, self.usage_id)
        named = self._named(
            "settle", {"tokens": [used.input_tokens, used.output_tokens]}, usage_key
        )
        usage = _usage(
            named, self.payer, self.hold, self.asked, self.provider,
            (used.input_tokens, used.output_tokens),
        )  # fmt: skip
        command = Settle(named, self.payer.user, self.payer.org, self.hold.bytes, None, usage)
        return Submission(command, Refs(VIA, key, str(self.hold), self.usage_id, None, reference))

    def _named(
        self, command: str, content: dict[str, Any], usage_key: bytes | None = None
    ) -> Identity:
        key = f"{command} {self.usage_id}"
        return identity(self.gateway.store, VIA, key, command, content, usage_key=usage_key)

    def _answered(self, submission: Submission) -> _Answered:
        return _Answered(self.gateway, submission)


@dataclass(frozen=True, slots=True)
class _Answered:
    gateway: Gateway
    submission: Submission

    async def __call__(self) -> Stored:
        (answered,) = await self.gateway.store.answer([self.submission])
        return accepted(answered)


async def reserve(
    gateway: Gateway,
    payer: Payer,
    key: str,
    asked: Asked,
    *,
    provider: str | None,
    ttl_s: float,
) -> Fare:
    """Hold the estimate of a call, which counts in the caller's quota; with their own key nothing.

    Raises Problem for every refusal, also for an Idempotency-Key that was used (answers are not
    kept), and Unavailable.
    """
    hold = uuid4()
    content = {"asked": asked.content.decode(), "byok": provider}
    named = identity(gateway.store, VIA, key, "llm", *({**content, "org": w} for w in payer.ways))
    tokens = (asked.input_tokens, asked.output_tokens)
    usage = None if provider else _usage(named, payer, hold, asked, None, tokens)
    command = Reserve(
        named,
        payer.user,
        payer.org,
        hold.bytes,
        0 if provider else None,
        usage,
        timedelta(seconds=ttl_s),
        counts=True,
    )
    submission = Submission(command, Refs(VIA, key, str(hold)))
    fare = Fare(gateway, payer, hold, asked, provider, 0)
    try:
        (result,) = await gateway.store.apply([submission])
    except BadValue:
        raise Problem("validation_failed", "A value of this request cannot be stored.") from None
    except TurnedAway:
        raise
    except TRANSIENT:
        gateway.llm.spawn(fare.release())  # it may have been written although nobody heard so
        raise
    if isinstance(result, Rejected):
        raise rejection(result)
    if isinstance(result, Seen) or not isinstance(result, Outcome) or result.result == "refused":
        (answered,) = await gateway.store.answer([submission])
        accepted(answered)  # raises the refusal, also when it was given before
        raise Problem(
            "conflict",
            "A call with this Idempotency-Key was made before, and its answer is not kept.",
            helps="Send a new key to make another call.",
        )
    left = (result.body or {})["available"]
    if payer.org is not None:
        left = await _of_allocation(gateway, submission, left)
    return Fare(gateway, payer, hold, asked, provider, left, result.quota)


async def _of_allocation(gateway: Gateway, submission: Submission, left: int) -> int:
    """Give what a member has left, where an allocation is smaller than what its org has left."""
    try:
        stored = await read_back(gateway.store, [submission])
    except TRANSIENT:
        return left
    entries = stored[submission.command.identity.event_key].entries
    return min([left, *(entry.balance - entry.held for entry in entries)])


def _usage(
    named: Identity,
    payer: Payer,
    hold: UUID,
    asked: Asked,
    provider: str | None,
    tokens: tuple[int, int],
) -> Usage:
    return Usage(
        named,
        payer.user,
        payer.org,
        hold.bytes,
        datetime.now(UTC),
        byok=provider is not None,
        provider=provider,
        model=asked.model,
        input_tokens=tokens[0],
        output_tokens=tokens[1],
    )


def _settled(stored: Stored) -> Settled:
    """Read what was charged. Of an allocation and its org, what is left is the smaller."""
    last = {entry.account: entry.balance - entry.held for entry in stored.entries}
    return Settled(stored.body["cost"], max(0, min(last.values(), default=0)))


async def _insisting(attempt: _Answered, failure: str, **said: Any) -> Stored | None:
    """Do something until it is done; None when it never will be."""
    given_up = attempt.gateway.metrics.llm_given_up
    loop = asyncio.get_running_loop()
    until, pause = loop.time() + _PATIENCE_S, _FIRST_PAUSE_S
    while True:
        try:
            return await attempt()
        except Problem as problem:
            log.exception(failure, reason=problem.reason, **said)
            return None
        except TRANSIENT as error:
            if loop.time() > until:
                given_up.inc()
                log.error(failure, error=type(error).__name__, **said)  # noqa: TRY400
                return None
        await asyncio.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE_S)
