"""The lazy layer of provisioning: whoever reads their own account for the first time has one."""

from __future__ import annotations

from uuid import uuid4

import asyncpg

from faregate.gateway.context import VIA, Gateway
from faregate.ledger import reading
from faregate.ledger.batch import Refs, Submission
from faregate.ledger.core import Identity, Refresh


async def provision(gateway: Gateway, user: str) -> asyncpg.Record | None:
    """Give the welcome credits to who has not got them yet; give the account's row."""
    row = await reading.current(gateway.store, user)
    untouched = row is None or row["sequence"] == 0
    if untouched and gateway.store.rules.provisioning == "auto":
        key = uuid4().bytes
        command = Refresh(Identity(key, key), user, welcome=True)
        await gateway.store.apply([Submission(command, Refs(VIA))])
        row = await reading.current(gateway.store, user)
    return row
