"""A charge in plain words: which credits paid it, how it was rounded, and whether it came back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from faregate.runtime.cli.base import counted, moment
from faregate.runtime.wording import plain

Value = Mapping[str, Any]

_SHOWN = 20


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
        amount = counted(refund["credits"], "credit")
        left = plain(usage["left"]) if usage["left"] else "nothing"
        yield (
            f"  It was refunded at {moment(refund['at'])}{_asked(refund)}: {amount} went back, so "
            f"{left} of it is left charged."
        )


def tell_refunds(usage: Value, refunds: Sequence[Value]) -> Iterator[str]:
    """Say what of a pipeline's usage was given back: first the sums, then each refund."""
    if not refunds:
        return
    many = counted(len(refunds), "of them was refunded", "of them were refunded")
    yield (
        f"{many}, {counted(usage['refunded'], 'credit')}, so {counted(usage['left'], 'credit')} "
        "of what was charged is left charged."
    )
    for refund in refunds[:_SHOWN]:
        named = refund["usage_id"] or f"charge {refund['charge_id']} (its name was erased)"
        amount = counted(refund["credits"], "credit")
        yield f"  {moment(refund['at'])}: {named} was refunded{_asked(refund)}: {amount}."
    if len(refunds) > _SHOWN:
        yield f"  And {len(refunds) - _SHOWN:,} more: --json lists them all."


def _asked(refund: Value) -> str:
    """Say who asked for a refund, and why."""
    by = f" by {refund['by']}" if refund["by"] else ""
    return by + (f" ({refund['reason']})" if refund["reason"] else "")


def _grant(grant: Value) -> str:
    what = ", ".join(filter(None, (grant["kind"], _source(grant))))
    expires = f", expires {moment(grant['expires_at'])}" if grant["expires_at"] else ""
    return f"grant {grant['number']} ({what}{expires}): {counted(grant['credits'], 'credit')}"


def _source(grant: Value) -> str | None:
    return None if grant["source"] == grant["kind"] else grant["source"]
