"""A ledger that has seen all that the domain has: tiers, orgs, allocations, calls, refunds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from tests.helpers import tampering
from tests.helpers.acting import by
from tests.helpers.ledger import Ledger, new_id

from faregate.events.amounts import MICRO
from faregate.ledger import acts
from faregate.ledger.acts import Call


async def everything(ledger: Ledger) -> None:
    """Live a little of everything, holds left open included."""
    await tampering.live(ledger)
    await people(ledger)
    await orgs(ledger)


async def people(ledger: Ledger) -> None:
    """Tiers, quotas, expiring grants, LLM calls, refunds."""
    store = ledger.store

    await acts.set_tier(store, "user:hana", "starter", **by("root"))
    soon = datetime.now(UTC) + timedelta(days=3)
    await acts.grant(
        store,
        "user:hana",
        "bonus",
        3 * MICRO,
        priority=5,
        expires_at=soon,
        allocated_by="user:boss",
        notes="for the pilot",
        **by("user:boss"),
    )
    for tokens in (1_000, 20_000, 7):
        await ledger.usage(user="hana", **model("gpt-4o-mini", tokens))
    await ledger.usage(user="hana", byok=True, **model("openai/gpt-4", 100))
    await acts.deduct(
        store,
        "user:hana",
        call=Call("gpt-4o-mini", 5_000, 100),
        reference="call-1",
        counts=True,
        key=new_id("call"),
    )
    await acts.deduct(store, "user:hana", amount=MICRO // 2, key=new_id("call"))
    await ledger.usage(user="hana", units=2, usage_id="refunded")
    await acts.refund(store, usage_id="refunded", **by("root"))
    await acts.set_quota(store, "user:hana", 900, **by("root"))
    await acts.set_tier(store, "user:hana", "professional", **by("root"))
    await ledger.usage(user="hana", **model("gpt-4", 50))
    await ledger.request("hana runs", user="hana", items=3)


async def orgs(ledger: Ledger) -> None:
    """An org that allocates, with one member who is at work and one who was removed."""
    store = ledger.store

    await ledger.set_balance("org:corp", 500)
    await acts.set_policy(store, "org:corp", "allocated", **by("user:boss"))
    await acts.set_member(store, "org:corp", "user:fay", "admin", **by("user:boss"))
    await acts.allocate(
        store,
        "org:corp",
        "user:fay",
        100 * MICRO,
        allocated_by="user:boss",
        notes="fay's share",
        **by("user:boss"),
    )
    await acts.allocate(store, "org:corp", "user:gus", 20 * MICRO, **by("user:boss"))
    await ledger.request("fay runs", user="fay", org="corp", items=10)
    await ledger.usage("fay runs", user="fay", org="corp", units=5)
    await ledger.request("gus ran", user="gus", org="corp", items=4)
    await ledger.finish("gus ran", user="gus", org="corp", usage_events=0)
    await acts.reclaim(store, "org:corp", "user:fay", 10 * MICRO, **by("user:boss"))
    await acts.set_member(store, "org:corp", "user:gus", "removed", **by("user:boss"))


def model(name: str, tokens: int) -> dict[str, Any]:
    """Give what `Ledger.usage` needs for an LLM call."""
    return {
        "phase": None,
        "units": None,
        "model": name,
        "input_tokens": tokens,
        "output_tokens": tokens // 2,
    }
