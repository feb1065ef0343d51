"""Organizations as people know them: a name, members, and how their credits may be spent."""

from __future__ import annotations

from uuid import UUID

from faregate.gateway.callers import Caller
from faregate.gateway.context import VIA, Gateway
from faregate.gateway.problems import Problem
from faregate.ledger import acts

_ADD = """
INSERT INTO org_names (org_id, name, created_by) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING"""
_NAME = "SELECT name FROM org_names WHERE org_id = $1"


async def create_org(gateway: Gateway, caller: Caller, name: str, key: str) -> str:
    """Make an org with the caller as its admin; give its id, the same for the same key.

    Members need an allocation (policy `allocated`). If it fails half-way, the same key completes
    it. Raises Problem `idempotency_conflict`, Unavailable.
    """
    org_id = str(UUID(bytes=gateway.store.keys.internal("org", key)))
    pool = gateway.store.pool
    await pool.execute(_ADD, org_id, name, caller.user_id)
    if await pool.fetchval(_NAME, org_id) != name:
        raise Problem("idempotency_conflict", "This key has made an org of another name.")
    org, actor = f"org:{org_id}", caller.user_id
    await acts.set_policy(
        gateway.store, org, "allocated", actor=actor, key=f"{key} policy", via=VIA
    )
    await acts.set_member(
        gateway.store, org, caller.user, "admin", actor=actor, key=f"{key} admin", via=VIA
    )
    return org_id


async def name_of(gateway: Gateway, org_id: str) -> str:
    """Give an org's name; its id where it was not made over HTTP."""
    return await gateway.store.pool.fetchval(_NAME, org_id) or org_id
