"""Acts on an organization: how its credits may be spent, who is a member, what each may spend.

Orgs and users are subjects (`org:acme`, `user:ada`), amounts micro-credits; `actor` and `key` as in
`acts_accounts`. All raise Rejected and Unavailable.
"""

from __future__ import annotations

from datetime import datetime

from faregate.ledger.acts_sending import CLI, Done, account_named, amount_of, identity, send
from faregate.ledger.batch import Refs
from faregate.ledger.core import Allocate, SetMember, SetPolicy
from faregate.ledger.core.accounts import Policy, Role
from faregate.ledger.store import Store


async def set_policy(
    store: Store, org: str, policy: Policy, *, actor: str, key: str, via: str = CLI
) -> Done:
    """Say how an org's credits may be spent: `pool` or `allocated`."""
    account_named(org, "org")
    named = identity(store, via, key, "set_policy", {"org": org, "policy": policy})
    return await send(store, SetPolicy(named, org, policy), Refs(via, key), actor)


async def set_member(
    store: Store, org: str, user: str, role: Role, *, actor: str, key: str, via: str = CLI
) -> Done:
    """Invite somebody (`member`, `admin`), change their role, or remove them (`removed`).

    Who is removed loses what is not held of their allocation; what is held settles. Rejected
    `not_a_member`.
    """
    _both(org, user)
    named = identity(store, via, key, "set_member", {"org": org, "user": user, "role": role})
    return await send(store, SetMember(named, org, user, role), Refs(via, key), actor)


async def allocate(
    store: Store,
    org: str,
    user: str,
    amount: int,
    *,
    actor: str,
    key: str,
    via: str = CLI,
    expires_at: datetime | None = None,
    allocated_by: str | None = None,
    notes: str | None = None,
) -> Done:
    """Let a member spend `amount` more of the org's credits; who is none yet becomes one."""
    _both(org, user)
    amount_of(amount)
    content = {"org": org, "user": user, "amount": amount, "expires_at": expires_at, "notes": notes}
    named = identity(store, via, key, "allocate", content)
    command = Allocate(named, org, user, amount, expires_at, allocated_by, notes)
    return await send(store, command, Refs(via, key), actor)


async def reclaim(
    store: Store,
    org: str,
    user: str,
    amount: int | None = None,
    *,
    actor: str,
    key: str,
    via: str = CLI,
) -> Done:
    """Take back `amount` of an allocation; None: all that is neither used nor held.

    Rejected `below_held`: less than that is free.
    """
    _both(org, user)
    if amount is not None:
        amount_of(amount)
    named = identity(store, via, key, "reclaim", {"org": org, "user": user, "amount": amount})
    less = None if amount is None else -amount
    return await send(store, Allocate(named, org, user, less), Refs(via, key), actor)


def _both(org: str, user: str) -> None:
    account_named(org, "org")
    account_named(user, "user")
