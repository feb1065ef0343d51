"""Speaking to a store with little noise: `await Ledger(store).set_balance("org:acme", 10_000)`.

Amounts are credits, users and orgs bare ids (`alice`, `acme`), accounts subjects (`org:acme`).
Identifiers that a test does not care about are made up, always new.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from typing import Any, Literal

from faregate.events.amounts import parse_credits, to_credits
from faregate.ledger.batch import Refs, Submission
from faregate.ledger.core import (
    AddGrant,
    Command,
    Finished,
    Identity,
    Outcome,
    PhaseCompleted,
    Request,
    SetBalance,
    Usage,
)
from faregate.ledger.keys import Keys
from faregate.ledger.queries import SQL
from faregate.ledger.store import Result, Store

SOURCE = "tests"
_numbers = count(1)


def new_id(kind: str) -> str:
    """Make up an identifier that was not used before: `usage-17`."""
    return f"{kind}-{next(_numbers)}"


def _org(org: str | None) -> str | None:
    return None if org is None else f"org:{org}"


class Submissions:
    """Makes submissions as the consumers would, from plain arguments."""

    def __init__(self, keys: Keys, source: str = SOURCE) -> None:
        self._keys = keys
        self._source = source

    def _identity(
        self, event_id: str, content: dict[str, Any], usage_id: str | None = None
    ) -> Identity:
        return Identity(
            self._keys.event(self._source, event_id),
            self._keys.fingerprint(str(content.pop("type")), content),
            None if usage_id is None else self._keys.usage(self._source, usage_id),
        )

    def _submission(
        self,
        command: Command,
        event_id: str,
        pipeline_id: str | None = None,
        usage_id: str | None = None,
        batch_id: str | None = None,
    ) -> Submission:
        refs = Refs(self._source, event_id, pipeline_id, usage_id, batch_id, pipeline_id)
        return Submission(command, refs)

    def set_balance(
        self,
        subject: str,
        credits_: float,
        *,
        reason: str | None = None,
        event_id: str | None = None,
    ) -> Submission:
        """Leave the account with this balance and no debt."""
        event_id = event_id or new_id("set")
        content = {"type": "set", "subject": subject, "credits": credits_, "reason": reason}
        target = parse_credits(credits_, allow_zero=True)
        command = SetBalance(self._identity(event_id, content), subject, target, reason)
        return self._submission(command, event_id)

    def grant(
        self,
        subject: str,
        credits_: float,
        *,
        kind: Literal["purchase", "bonus"] = "purchase",
        reason: str | None = None,
        event_id: str | None = None,
    ) -> Submission:
        """Add credits."""
        event_id = event_id or new_id("grant")
        content = {"type": "grant", "subject": subject, "credits": credits_, "kind": kind}
        identity = self._identity(event_id, content)
        command = AddGrant(identity, subject, kind, parse_credits(credits_), reason)
        return self._submission(command, event_id)

    def request(
        self,
        pipeline_id: str | None = None,
        *,
        user: str = "alice",
        org: str | None = None,
        pipeline: str = "cj_assessment",
        items: int = 10,
        batch_id: str | None = None,
        phases: Sequence[str] | None = None,
        expires_at: datetime | None = None,
        event_id: str | None = None,
    ) -> Submission:
        """Ask to run a pipeline: ten items of `cj_assessment` take 45 credits."""
        event_id, batch_id = event_id or new_id("request"), batch_id or new_id("batch")
        pipeline_id = pipeline_id or new_id("pipeline")
        content = {"type": "request", "p": pipeline_id, "u": user, "o": org, "n": items}
        command = Request(
            self._identity(event_id, content),
            f"user:{user}",
            _org(org),
            self._keys.pipeline(pipeline_id),
            pipeline,
            self._keys.batch(batch_id),
            items,
            tuple(phases) if phases else None,
            expires_at,
        )
        return self._submission(command, event_id, pipeline_id, None, batch_id)

    def usage(
        self,
        pipeline_id: str | None = None,
        *,
        user: str = "alice",
        org: str | None = None,
        phase: str | None = "cj_assessment",
        units: int | None = 1,
        provider: str | None = None,
        model: str | None = None,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        byok: bool = False,
        occurred_at: datetime | None = None,
        usage_id: str | None = None,
        event_id: str | None = None,
    ) -> Submission:
        """Record usage; one unit of `cj_assessment` costs one credit."""
        event_id, usage_id = event_id or new_id("event"), usage_id or new_id("usage")
        content = {"type": "usage", "id": usage_id, "u": user, "o": org, "n": units, "f": phase}
        command = Usage(
            self._identity(event_id, content, usage_id),
            f"user:{user}",
            _org(org),
            None if pipeline_id is None else self._keys.pipeline(pipeline_id),
            occurred_at or datetime.now(UTC),
            byok,
            phase,
            units,
            provider,
            model,
            input_tokens,
            output_tokens,
        )
        return self._submission(command, event_id, pipeline_id, usage_id)

    def completed(
        self,
        pipeline_id: str,
        phase: str,
        *,
        batch_id: str,
        user: str = "alice",
        org: str | None = None,
        items: int | None = None,
        event_id: str | None = None,
    ) -> Submission:
        """Complete a phase of a pipeline's batch."""
        event_id = event_id or new_id("completed")
        content = {"type": "completed", "p": pipeline_id, "f": phase, "b": batch_id, "n": items}
        command = PhaseCompleted(
            self._identity(event_id, content),
            f"user:{user}",
            _org(org),
            self._keys.pipeline(pipeline_id),
            self._keys.batch(batch_id),
            phase,
            items,
        )
        return self._submission(command, event_id, pipeline_id, None, batch_id)

    def finish(
        self,
        pipeline_id: str,
        *,
        user: str = "alice",
        org: str | None = None,
        status: str = "succeeded",
        usage_events: int | None = None,
        event_id: str | None = None,
    ) -> Submission:
        """End a pipeline; with `usage_events` its hold closes once so many have settled."""
        event_id = event_id or new_id("finished")
        content = {"type": "finished", "p": pipeline_id, "s": status, "n": usage_events}
        command = Finished(
            self._identity(event_id, content),
            f"user:{user}",
            _org(org),
            self._keys.pipeline(pipeline_id),
            status,
            usage_events,
        )
        return self._submission(command, event_id, pipeline_id)

    def act(
        self,
        make: Callable[[Identity], Command],
        *,
        actor: str | None = None,
        event_id: str | None = None,
    ) -> Submission:
        """Do what `make` makes of a new identity: `act(lambda i: SetTier(i, "user:a", "trial"))`.

        With an actor it leaves a row in the audit log.
        """
        event_id = event_id or new_id("act")
        command = make(self._identity(event_id, {"type": "act", "id": event_id}))
        return Submission(command, Refs(self._source, event_id), actor)


@dataclass(frozen=True, slots=True)
class Balance:
    """What an account has, in credits."""

    balance: float
    held: float
    available: float
    debt: float
    sequence: int


class Ledger:
    """A store, spoken to in one line per command. Every method gives the store's result."""

    def __init__(self, store: Store, source: str = SOURCE) -> None:
        self.store = store
        self.make = Submissions(store.keys, source)
        """For batches and repetitions: `await ledger.apply(ledger.make.usage(...), ...)`."""

    async def apply(self, *submissions: Submission) -> list[Result]:
        """Apply one batch."""
        return await self.store.apply(submissions)

    async def _one(self, submission: Submission) -> Result:
        (result,) = await self.store.apply([submission])
        return result

    async def set_balance(self, subject: str, credits_: float, **more: Any) -> Result:
        """Leave the account with this balance and no debt."""
        return await self._one(self.make.set_balance(subject, credits_, **more))

    async def grant(self, subject: str, credits_: float, **more: Any) -> Result:
        """Add credits."""
        return await self._one(self.make.grant(subject, credits_, **more))

    async def request(self, pipeline_id: str | None = None, **more: Any) -> Result:
        """Ask to run a pipeline."""
        return await self._one(self.make.request(pipeline_id, **more))

    async def usage(self, pipeline_id: str | None = None, **more: Any) -> Result:
        """Record usage."""
        return await self._one(self.make.usage(pipeline_id, **more))

    async def completed(self, pipeline_id: str, phase: str, **more: Any) -> Result:
        """Complete a phase."""
        return await self._one(self.make.completed(pipeline_id, phase, **more))

    async def finish(self, pipeline_id: str, **more: Any) -> Result:
        """End a pipeline."""
        return await self._one(self.make.finish(pipeline_id, **more))

    async def act(self, make: Callable[[Identity], Command], **more: Any) -> Result:
        """Do what there is no method for here."""
        return await self._one(self.make.act(make, **more))

    async def balance(self, subject: str) -> Balance:
        """Read an account; one that does not exist has nothing."""
        row = await self.store.pool.fetchrow(SQL["account"], subject)
        if row is None:
            return Balance(0, 0, 0, 0, 0)
        return Balance(
            to_credits(row["balance"]),
            to_credits(row["held"]),
            to_credits(row["balance"] - row["held"]),
            to_credits(row["debt"]),
            row["sequence"],
        )


def initiated(result: Result) -> bool:
    """Say whether a request was let in."""
    return isinstance(result, Outcome) and result.result == "initiated"


def denied(result: Result) -> str | None:
    """Give the reason of a denial; None when it is none."""
    if isinstance(result, Outcome) and result.result == "denied":
        return str((result.body or {})["reason"])
    return None
