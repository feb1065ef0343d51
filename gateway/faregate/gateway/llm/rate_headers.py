"""Rate headers: how many calls the acting user has left in the period of their tier.

`X-RateLimit-*` as most clients know them, and `RateLimit`, `RateLimit-Policy` of the IETF draft
(draft-ietf-httpapi-ratelimit-headers). Users without a quota get none.
"""

from __future__ import annotations

from datetime import UTC, datetime
from math import ceil

from faregate.ledger import reading
from faregate.ledger.core import Quota
from faregate.ledger.core.accounts import PERIOD
from faregate.ledger.store import Store


async def rate_headers(store: Store, user: str) -> dict[str, str]:
    """Give the headers for a user. Raises the driver's errors."""
    quota = await reading.quota(store, user)
    if quota["limit"] is None:
        return {}
    now = datetime.now(UTC)
    end = datetime.fromisoformat(quota["period_end"]) if quota["period_end"] else now + PERIOD
    return written(quota["limit"], quota["remaining"], end, now)


def of_call(quota: Quota | None) -> dict[str, str]:
    """Give the headers as of a call that was counted."""
    if quota is None or quota.limit is None:
        return {}
    left = max(quota.limit - quota.used, 0)
    return written(quota.limit, left, quota.resets_at, datetime.now(UTC))


def written(limit: int, remaining: int, resets_at: datetime, now: datetime) -> dict[str, str]:
    """Write the headers."""
    left = max(0, ceil((resets_at - now).total_seconds()))
    return {
        "X-RateLimit-Limit": str(limit),
        "X-RateLimit-Remaining": str(remaining),
        "X-RateLimit-Reset": str(ceil(resets_at.timestamp())),
        "RateLimit": f'"calls";r={remaining};t={left}',
        "RateLimit-Policy": f'"calls";q={limit};w={int(PERIOD.total_seconds())}',
    }
