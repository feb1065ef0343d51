"""What a program asks for and waits for: deduct at once, or whether it could.

These are no administrative acts, so they leave no row in the audit log; entries are their trace.
Users and orgs are subjects, amounts micro-credits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from faregate.ledger.acts_sending import (
    CLI,
    READING,
    Done,
    account_named,
    amount_of,
    code,
    identity,
    send,
)
from faregate.ledger.batch import Refs
from faregate.ledger.core import Deduct, Identity, Outcome, Rejected, Usage, decide
from faregate.ledger.core.posting import Work
from faregate.ledger.snapshot import snapshot
from faregate.ledger.store import Store

_NOBODY = Identity(bytes(16), bytes(16))


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a model. With the caller's own key (`byok`) it costs nothing, and counts."""

    model: str
    input_tokens: int
    output_tokens: int = 0
    provider: str | None = None
    byok: bool = False


@dataclass(frozen=True, slots=True)
class Charge:
    """What became of a deduction: `charged`, or `refused` with the contract's `reason`.

    `entry_id` and `balance` are the payer's (after it). `body` has what else the outcome says:
    of a refusal `status`, `required`, `available`, `considered`, and what `denial_message` needs.
    """

    result: str
    cost: int
    payer: str | None
    entry_id: int | None
    balance: int | None
    body: Mapping[str, Any]
    repeated: bool

    @property
    def reason(self) -> str | None:
        """Why it was refused; None when it was not."""
        return self.body.get("reason")


@dataclass(frozen=True, slots=True)
class Coverage:
    """Whether an amount is covered, by whom, and if not why not; `body` as in `Charge`."""

    sufficient: bool
    payer: str | None
    reason: str | None
    body: Mapping[str, Any]


async def deduct(
    store: Store,
    user: str,
    org: str | None = None,
    *,
    amount: int | None = None,
    call: Call | None = None,
    key: str,
    via: str = CLI,
    reference: str | None = None,
    reason: str | None = None,
    counts: bool = False,
) -> Charge:
    """Take `amount`, or the price of `call`, whole or not at all. `counts`: it is a call.

    The payer is found as for a request. A refusal is an answer too, and the same for who repeats
    the key. Rejected: `unknown_price`, `amount_out_of_range`, `idempotency_conflict`.
    """
    _both(user, org)
    content: dict[str, object] = {
        "user": user,
        "org": org,
        "amount": amount,
        "call": None if call is None else _content(call),
        "reference": reference,
        "counts": counts,
    }
    named = identity(store, via, key, "deduct", content)
    if call is None and amount is None:
        raise Rejected("nothing_to_do", "say an amount or a call")
    cost = None if call is not None else amount_of(amount or 0)
    usage = None if call is None else _usage(named, user, org, call, datetime.now(UTC))
    command = Deduct(named, user, org, cost, None, usage, code("reason", reason), counts)
    done = await send(store, command, Refs(via, key, usage_id=reference), None, key)
    return await _charge(store, done)


def _both(user: str, org: str | None) -> None:
    account_named(user, "user")
    if org is not None:
        account_named(org, "org")


def _content(call: Call) -> list[object]:
    return [call.provider, call.model, call.input_tokens, call.output_tokens, call.byok]


def _usage(named: Identity, user: str, org: str | None, call: Call, at: Any) -> Usage:
    return Usage(
        named,
        user,
        org,
        None,
        at,
        call.byok,
        None,
        None,
        call.provider,
        call.model,
        call.input_tokens,
        call.output_tokens,
    )


async def _charge(store: Store, done: Done) -> Charge:
    if done.result != "charged":
        return Charge(done.result, 0, None, None, None, done.body, done.repeated)
    payer = done.body["payer"]
    rows = await store.pool.fetch(READING["charge"], done.outcome_id)
    paid_by = await store.names.find(payer)
    row = next((r for r in rows if r["account_id"] == paid_by), rows[0])
    cost = done.body["cost"]
    return Charge("charged", cost, payer, row["id"], row["balance"], done.body, done.repeated)


async def check(
    store: Store, user: str, org: str | None, amount: int, *, counts: bool = False
) -> Coverage:
    """Say whether what a call of this user (in this org) would be paid from covers `amount`.

    By the same rules as `deduct`, without a lock; nothing is written and nothing is promised.
    """
    _both(user, org)
    work = await snapshot(store, user, org)
    return coverage(work, user, org, amount, counts=counts)


def coverage(
    work: Work, user: str, org: str | None, amount: int, *, counts: bool = False
) -> Coverage:
    """Say the same of a snapshot that was read already."""
    amount_of(amount)
    command = Deduct(_NOBODY, user, org, amount, counts=counts)
    (outcome,) = decide(work.state, [command], work.now).results
    if not isinstance(outcome, Outcome):
        raise TypeError(f"a deduction came to {outcome!r}")
    body = outcome.body or {}
    return Coverage(outcome.result == "charged", body.get("payer"), body.get("reason"), body)
