"""`credits` and `batch`: accounts with credits, made by the same acts as on the command line."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal
from uuid import uuid4

import asyncpg

from faregate.events import format_credits, parse_credits
from faregate.ledger import acts
from faregate.ledger.core import Rejected
from faregate.ledger.database import TRANSIENT
from faregate.ledger.store import Store
from faregate.testing.batches import Batch, new_id

AMOUNT = 10_000
ITEMS = 10
ACTOR = "faregate.testing"
_FAULTS = (Rejected, ValueError, asyncpg.PostgresError, *TRANSIENT)

log = logging.getLogger("faregate.testing")


class NotFunded(UserWarning):
    """An account did not get its credits; the message says what will follow."""


@dataclass(frozen=True, slots=True)
class Provisioned:
    """Which accounts have how many credits now, and why others have not."""

    funded: dict[str, float]
    failed: dict[str, str]


class Credits:
    """Gives credits to accounts."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def provision(
        self, *, org: str | None = None, user: str | None = None, amount: float = AMOUNT
    ) -> Provisioned:
        """Leave the org and the user with `amount` credits each, and no debt. Ids are bare.

        Each is logged. One that cannot be funded is a warning (NotFunded); the other is funded all
        the same.
        """
        if org is None and user is None:
            raise ValueError("say who is to have credits: org, user or both")
        done = Provisioned({}, {})
        for subject in [f"{k}:{i}" for k, i in (("org", org), ("user", user)) if i is not None]:
            try:
                await self._set(subject, amount)
            except _FAULTS as error:
                done.failed[subject] = str(error) or type(error).__name__
                log.warning("%s was not funded: %s", subject, done.failed[subject])
            else:
                done.funded[subject] = amount
                log.info("%s was funded: it has %s credits", subject, _said(amount))
        for subject, reason in done.failed.items():  # last: a warning may be set to raise
            warnings.warn(_consequence(subject, reason, done), NotFunded, stacklevel=2)
        return done

    async def grant(
        self,
        account: str,
        amount: float,
        *,
        kind: Literal["purchase", "bonus"] = "purchase",
        expires_in: timedelta | None = None,
    ) -> None:
        """Add credits to an account (`org:…`, `user:…`), by the clock of the test."""
        micro = parse_credits(amount)
        await acts.grant(
            self._store, account, kind, micro, expires_in=expires_in, actor=ACTOR, key=uuid4().hex
        )
        log.info("%s was granted %s credits", account, _said(amount))

    async def tier(self, account: str, tier: str) -> None:
        """Put an account on a tier (`trial`, `starter` …): it renews every 30 days."""
        await acts.set_tier(self._store, account, tier, actor=ACTOR, key=uuid4().hex)
        log.info("%s is on tier %s", account, tier)

    async def _set(self, subject: str, amount: float) -> None:
        target = parse_credits(amount, allow_zero=True)
        await acts.set_balance(self._store, subject, target, actor=ACTOR, key=uuid4().hex)


class Batches:
    """Makes batches whose org and user have credits."""

    def __init__(self, credits_: Credits, *, provision: bool) -> None:
        self._credits = credits_
        self._provision = provision

    async def __call__(
        self,
        items: int = ITEMS,
        *,
        org: str | None = None,
        user: str | None = None,
        guest: bool = False,
        amount: float = AMOUNT,
        provision_credits: bool | None = None,
    ) -> Batch:
        """Set up a batch and fund its org and its user (a guest's: the user).

        Who is not named is made up, always new. `provision_credits=False`: nobody is funded, to
        test denials; the default is what the fixture or marker of that name says.
        """
        if guest and org is not None:
            raise ValueError("a guest has no org: say either org or guest=True")
        org_id = None if guest else org or new_id("org")
        made = Batch(new_id("batch"), items, user or new_id("user"), org_id)
        if self._provision if provision_credits is None else provision_credits:
            await self._credits.provision(org=org_id, user=made.user_id, amount=amount)
        return made


_FOLLOWS = {
    "org": "requests that name it fall back to the user's own credits, or are denied with "
    "insufficient_credits (402)",
    "user": "requests without an org, and those that the org does not cover, are denied with "
    "insufficient_credits (402)",
}


def _consequence(subject: str, reason: str, done: Provisioned) -> str:
    funded = ", ".join(f"{name} has {_said(amount)}" for name, amount in done.funded.items())
    follows = _FOLLOWS[subject.partition(":")[0]]
    return (
        f"{subject} was not funded: {reason}. It keeps what it had; where that is not enough, "
        f"{follows}. Funded: {funded or 'nobody'}."
    )


def _said(amount: float) -> str:
    return format_credits(parse_credits(amount, allow_zero=True))
