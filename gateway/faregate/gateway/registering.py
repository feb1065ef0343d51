"""The credit account of who registers: eager provisioning, whoever tells that they are there."""

from __future__ import annotations

import asyncpg

from faregate.gateway.context import VIA, Gateway
from faregate.ledger import reading
from faregate.ledger.acts_sending import identity
from faregate.ledger.batch import Refs, Submission
from faregate.ledger.core import Register, Rejected


async def register_account(
    gateway: Gateway, user_id: str, *, referral: str | None = None, email_verified: bool = False
) -> asyncpg.Record | None:
    """Make a user's credit account and welcome them, once for ever; give the account's row.

    That an address was verified is a command of its own, since it may be told later: it releases
    what waits for that. Raises Rejected for a user who registered with another referral.
    """
    user, store = f"user:{user_id}", gateway.store
    key = f"register {user_id}{' verified' if email_verified else ''}"
    content = {"referral": referral, "email_verified": email_verified or None}
    named = identity(store, VIA, key, "register", content)
    kind, _, sender = (referral or "").partition(":")
    referrer = referral if kind == "user" and sender else None
    command = Register(named, user, email_verified, referral, referrer)
    (result,) = await store.apply([Submission(command, Refs(VIA, key))])
    if isinstance(result, Rejected):
        raise result
    return await reading.current(store, user)
