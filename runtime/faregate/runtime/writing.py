"""Administrative commands, sent through the same store as everything else."""

from __future__ import annotations

from typing import Literal

from faregate.ledger.batch import Refs, Submission
from faregate.ledger.core import Grant, Identity, Outcome, Rejected, Seen, SetBalance
from faregate.ledger.store import Store

SOURCE = "faregate/cli"


async def set_balance(store: Store, subject: str, target: int, key: str) -> Outcome | Seen:
    """Set a balance (micro-credits). `key` makes it happen once. Raises Rejected, Unavailable."""
    content = {"subject": subject, "target": target}
    identity = _identity(store, "set_balance", key, content)
    command = SetBalance(identity, subject, target, "set_balance")
    return await _apply(store, Submission(command, Refs(SOURCE, key)))


async def grant(
    store: Store, subject: str, kind: Literal["purchase", "bonus"], amount: int, key: str
) -> Outcome | Seen:
    """Grant credits (micro-credits). `key` makes it happen once. Raises Rejected, Unavailable."""
    content = {"subject": subject, "kind": kind, "amount": amount}
    identity = _identity(store, "grant", key, content)
    return await _apply(
        store, Submission(Grant(identity, subject, kind, amount), Refs(SOURCE, key))
    )


def _identity(store: Store, command: str, key: str, content: dict[str, object]) -> Identity:
    keys = store.keys
    return Identity(keys.event(SOURCE, key), keys.fingerprint(command, content))


async def _apply(store: Store, submission: Submission) -> Outcome | Seen:
    (result,) = await store.apply([submission])
    if isinstance(result, Rejected):
        raise result
    if result is None:
        raise Rejected("nothing_to_do", "the command had nothing to do")
    return result
