"""Invitations become memberships as soon as their e-mail address is known to be somebody's."""

from __future__ import annotations

from faregate.gateway.context import VIA, Gateway
from faregate.ledger import acts
from faregate.ledger.core.accounts import Role


async def accept_invitations(gateway: Gateway, user_id: str, email: str) -> str | None:
    """Make a user a member of the orgs that wait for their address; give the first of these.

    Safe to repeat: each membership is one act with a key of its own.
    """
    first = None
    for invitation in await gateway.users.invitations(email):
        role: Role = "admin" if invitation.role == "admin" else "member"
        org_id = invitation.org_id
        await acts.set_member(
            gateway.store,
            f"org:{org_id}",
            f"user:{user_id}",
            role,
            actor=invitation.invited_by,
            key=f"invitation {org_id} {user_id} {role} {invitation.created_at.isoformat()}",
            via=VIA,
        )
        await gateway.users.accepted(email, org_id)
        first = first or org_id
    return first
