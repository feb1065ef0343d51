"""Commands that callers wait for, made from requests: what the group commit decides.

Money goes straight to the queue; the answer is read back once for a whole batch. That is why these
are made here and not by the one-at-a-time functions of `ledger.acts`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from faregate.gateway.callers import Payer
from faregate.gateway.context import VIA, Gateway
from faregate.ledger.acts_sending import identity
from faregate.ledger.batch import Refs, Submission
from faregate.ledger.core import Deduct, Identity, Release, Reserve, Settle, Usage

_REMEMBER = """
INSERT INTO hold_models (hold_id, provider, model) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING"""
_REMEMBERED = "SELECT provider, model FROM hold_models WHERE hold_id = $1"


@dataclass(frozen=True, slots=True)
class Tokens:
    """A call of a model: what it was, or is estimated to be."""

    model: str
    provider: str | None
    input_tokens: int
    output_tokens: int

    def usage(self, named: Identity, payer: Payer, hold: bytes | None = None) -> Usage:
        """Write it as usage that is not recorded by itself."""
        return Usage(
            named,
            payer.user,
            payer.org,
            hold,
            datetime.now(UTC),
            provider=self.provider,
            model=self.model,
            input_tokens=self.input_tokens,
            output_tokens=self.output_tokens,
        )


def _named(
    gateway: Gateway, payer: Payer, key: str, command: str, content: Mapping[str, Any]
) -> Identity:
    ways = [{**content, "org": way} for way in payer.ways]
    named = identity(gateway.store, VIA, key, command, *ways)
    return replace(named, is_repeat=True) if payer.refused else named


def deduct(
    gateway: Gateway,
    payer: Payer,
    key: str,
    *,
    amount: int | None,
    tokens: Tokens | None,
    content: Mapping[str, Any],
    reference: str | None,
) -> Submission:
    """Make a deduction of `amount` or of the price of `tokens`, which counts as a call."""
    named = _named(gateway, payer, key, "deduct", content)
    refs = Refs(VIA, key, correlation_id=reference)
    if tokens is None:
        return Submission(Deduct(named, payer.user, payer.org, amount or 0), refs)
    usage = tokens.usage(named, payer)
    command = Deduct(named, payer.user, payer.org, None, None, usage, counts=True)
    return Submission(command, refs)


def reserve(
    gateway: Gateway,
    payer: Payer,
    key: str,
    *,
    amount: int | None,
    tokens: Tokens | None,
    content: Mapping[str, Any],
    ttl_s: int | None,
    reference: str | None,
) -> Submission:
    """Make a hold of `amount`, or of what `tokens` are estimated to cost; the latter is a call."""
    named = _named(gateway, payer, key, "reserve", content)
    hold = gateway.store.keys.internal("hold", named.event_key.hex())
    usage = tokens.usage(named, payer, hold) if tokens else None
    ttl = timedelta(seconds=ttl_s) if ttl_s else None
    command = Reserve(
        named, payer.user, payer.org, hold, amount, usage, ttl, counts=tokens is not None
    )
    return Submission(command, Refs(VIA, key, correlation_id=reference))


def settle(
    gateway: Gateway,
    payer: Payer,
    key: str,
    hold_id: UUID,
    *,
    cost: int | None,
    tokens: Tokens | None,
    content: Mapping[str, Any],
    final: bool,
) -> Submission:
    """Charge `cost`, or what `tokens` cost by the hold's prices, against a hold."""
    named = _named(gateway, payer, key, "settle", {**content, "hold_id": str(hold_id)})
    usage = tokens.usage(named, payer, hold_id.bytes) if tokens else None
    command = Settle(
        named, payer.user, payer.org, hold_id.bytes, cost, usage, final, within=payer.has_left
    )
    return Submission(command, Refs(VIA, key))


def release(
    gateway: Gateway, payer: Payer, key: str, hold_id: UUID, batch: str | None = None
) -> Submission:
    """Give back what is left of a hold."""
    named = _named(gateway, payer, key, "release", {"hold_id": str(hold_id), "batch": batch})
    command = Release(named, payer.user, payer.org, hold_id.bytes)
    return Submission(command, Refs(VIA, key))


async def remember_model(gateway: Gateway, submission: Submission) -> None:
    """Note which model a hold is made for, so that settling it need not say so again."""
    command = submission.command
    if isinstance(command, Reserve) and command.usage is not None:
        await gateway.store.pool.execute(
            _REMEMBER, UUID(bytes=command.pipeline_key), command.usage.provider, command.usage.model
        )


async def model_of(gateway: Gateway, hold_id: UUID) -> tuple[str | None, str] | None:
    """Give provider and model that a hold was made for."""
    row = await gateway.store.pool.fetchrow(_REMEMBERED, hold_id)
    return (row["provider"], row["model"]) if row else None
