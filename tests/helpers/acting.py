"""What tests of administrative acts share: who acts under which key, refusals, a sound ledger."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any
from uuid import uuid4

import pytest

from faregate.ledger.core import Rejected
from faregate.ledger.store import Store
from faregate.ledger.verify import verify


def by(actor: str = "ops", key: str | None = None) -> dict[str, Any]:
    """Give what every act is told: who does it, and a key, a new one unless told one."""
    return {"actor": actor, "key": key or uuid4().hex}


async def refused(work: Awaitable[Any]) -> str:
    """Give the code with which something is refused; fail when it is not."""
    with pytest.raises(Rejected) as caught:
        await work
    return caught.value.code


async def sound(store: Store) -> None:
    """Have `verify` look at the whole ledger: it must find nothing."""
    report = await verify(store.pool)
    assert report.ok, report.findings
