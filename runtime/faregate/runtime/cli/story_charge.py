"""A charge in plain words: which credits paid it, how it was rounded, and whether it came back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from faregate.runtime.cli.base import counted, moment
from faregate.runtime.wording import plain

Value = Mapping[str, Any]


def tell_charge(usage: Value) -> Iterator[str]:
    """Give the sentences about a charge that go after who paid."""
    if usage["increment"] is not None:
        yield f"  Its price is rounded up to the next {usage['increment']:g} credits."
    if usage["tier"]:
        yield f"  Its price is that of tier {usage['tier']}."
    if usage["grants"]:
        yield f"  It came out of {'; '.join(_grant(g) for g in usage['grants'])}."
    if usage["allocation"]:
        taken, left = usage["allocation"]["credits"], usage["allocation"]["left"]
        yield (
            f"  The member's allocation went down by the same {counted(taken, 'credit')}, "
            f"to {plain(left)} left."
        )
    refund = usage["refund"]
    if refund:
        by = f" by {refund['by']}" if refund["by"] else ""
        yield f"  It was refunded at {moment(refund['at'])}{by}: {counted(refund['credits'], 'credit')}."


def _grant(grant: Value) -> str:
    what = ", ".join(filter(None, (grant["kind"], _source(grant))))
    expires = f", expires {moment(grant['expires_at'])}" if grant["expires_at"] else ""
    return f"grant {grant['number']} ({what}{expires}): {counted(grant['credits'], 'credit')}"


def _source(grant: Value) -> str | None:
    return None if grant["source"] == grant["kind"] else grant["source"]
