"""What explain says of a charge: which credits paid, how it was rounded, whether it came back."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from tests.helpers.acting import by
from tests.helpers.ledger import Ledger, initiated

from faregate.consumers.sweeper import charge_unpriced
from faregate.ledger import acts
from faregate.ledger.acts import Call
from faregate.ledger.pricing import apply_prices
from faregate.ledger.store import Store
from faregate.runtime.cli.story import tell
from faregate.runtime.explain import explain

pytestmark = pytest.mark.stack

CREDIT = 1_000_000
ADA, ORG = "user:ada", "org:acme"


async def told(store: Store, identifier: str) -> tuple[dict[str, Any], str]:
    """Explain one piece of usage: the facts, and the story in one line."""
    found = await explain(store, identifier)
    assert found
    (usage,) = found["usages"]
    return usage, " ".join(line.strip() for line in tell(found))


async def test_the_grants_that_paid_are_named(store: Store) -> None:
    await acts.grant(store, ADA, "bonus", 3 * CREDIT, **by("grace"), expires_in=timedelta(days=1))
    await acts.grant(store, ADA, "purchase", 9 * CREDIT, **by("grace"), source="invoice:17")
    await Ledger(store).usage(user="ada", units=5, usage_id="u1")
    usage, story = await told(store, "u1")
    paid = [(g["number"], g["credits"], g["kind"], g["source"]) for g in usage["grants"]]
    assert paid == [(1, 3, "bonus", "bonus"), (2, 2, "purchase", "invoice:17")]
    assert "It cost 5 credits by price version 1." in story
    assert "grant 2 (purchase, invoice:17): 2 credits" in story
    assert "grant 1 (bonus, expires " in story
    assert (usage["increment"], usage["refund"], usage["allocation"]) == (None, None, None)


async def test_what_a_hold_had_pinned_is_named_as_well(store: Store) -> None:
    await acts.set_balance(store, ADA, 50 * CREDIT, **by("grace"))
    ledger = Ledger(store)
    assert initiated(await ledger.request("p1", user="ada"))
    await ledger.usage("p1", user="ada", units=40, usage_id="u1")
    usage, _ = await told(store, "u1")
    assert (usage["from_hold"], usage["grants"][0]["credits"]) == (40, 40)


async def test_the_increment_the_allocation_and_a_refund_are_told(store: Store) -> None:
    await acts.set_balance(store, ORG, 10 * CREDIT, **by("grace"))
    await acts.set_policy(store, ORG, "allocated", **by("grace"))
    await acts.allocate(store, ORG, ADA, 4 * CREDIT, **by("grace"))
    await Ledger(store).usage(user="ada", org="acme", phase=None, units=None, model="gpt-4o-mini",
                              input_tokens=10, output_tokens=1, usage_id="u1")  # fmt: skip
    await acts.refund(store, usage_id="u1", **by("grace"))
    usage, story = await told(store, "u1")
    assert (usage["payer"], usage["increment"]) == (ORG, 0.1)
    assert usage["allocation"] == {"credits": 0.1, "left": 3.9}
    assert (usage["refund"]["credits"], usage["refund"]["by"]) == (0.1, "grace")
    assert "rounded up to the next 0.1 credits" in story
    assert "allocation went down by the same 0.1 credits, to 3.9 left" in story
    assert "by grace: 0.1 credits went back, so nothing of it is left charged" in story


async def test_a_deduction_is_explained_by_its_reference(store: Store) -> None:
    await acts.set_balance(store, ADA, 10 * CREDIT, **by("grace"))
    await acts.deduct(store, ADA, call=Call("gpt-4o-mini", 10), key="k", reference="essay-7")
    usage, story = await told(store, "essay-7")
    assert (usage["cost"], usage["payer"], usage["model"]) == (0.1, ADA, "gpt-4o-mini")
    assert "usage essay-7 from faregate/cli" in story


async def test_the_tier_that_a_price_depended_on_is_told(store: Store) -> None:
    book = {"phases": {}, "models": {"house/tutor": {"kind": "tier_rate"}}}
    await apply_prices(store, book, None, by="x")
    await acts.set_tier(store, ADA, "starter", **by("grace"))
    await Ledger(store).usage(user="ada", phase=None, units=None, model="tutor",
                              input_tokens=1000, output_tokens=0, usage_id="u1")  # fmt: skip
    usage, story = await told(store, "u1")
    assert (usage["cost"], usage["tier"], usage["increment"]) == (0.002, "starter", None)
    assert "that of tier starter" in story


async def test_refunds_of_a_pipeline_are_told_with_their_reason_and_entries(store: Store) -> None:
    await acts.set_balance(store, ADA, 100 * CREDIT, **by("grace"))
    ledger = Ledger(store)
    for name in ("u1", "u2", "u3"):
        await ledger.usage("p1", user="ada", units=3, usage_id=name)
    await acts.refund(store, usage_id="u1", **by("grace"))
    await acts.refund(store, usage_id="u2", reason="double_charge", **by("hal"))
    found = await explain(store, "p1")
    assert found
    pipeline, story = found["pipeline"], "\n".join(tell(found))
    sums = [pipeline["usage"][n] for n in ("events", "cost", "refunded", "left")]
    assert sums == [3, 9, 6, 3]
    given = [(r["usage_id"], r["credits"], r["by"], r["reason"]) for r in pipeline["refunds"]]
    assert given == [("u1", 3, "grace", None), ("u2", 3, "hal", "double_charge")]
    back = [e for e in pipeline["entries"] if e["kind"] == "refund"]
    assert [(e["amount"], e["usage_id"], e["pipeline_id"]) for e in back] == [
        (3, "u1", "p1"),
        (3, "u2", "p1"),
    ]
    assert [e["charge_id"] for e in back] == [r["charge_id"] for r in pipeline["refunds"]]
    assert "2 of them were refunded, 6 credits, so 3 credits of what was charged is left" in story
    assert "u1 was refunded by grace: 3 credits." in story
    assert "u2 was refunded by hal (double_charge): 3 credits." in story


async def test_a_refund_of_usage_is_told_with_its_reason_and_entries(store: Store) -> None:
    await acts.set_balance(store, ADA, 10 * CREDIT, **by("grace"))
    await Ledger(store).usage(user="ada", units=4, usage_id="u1")
    await acts.refund(store, usage_id="u1", reason="double_charge", **by("grace"))
    usage, story = await told(store, "u1")
    assert [(e["kind"], e["amount"]) for e in usage["entries"]] == [("usage", -4), ("refund", 4)]
    assert (usage["refund"]["reason"], usage["left"]) == ("double_charge", 0)
    assert "by grace (double_charge): 4 credits went back" in story


async def test_usage_that_was_priced_late_is_refunded_and_told(store: Store) -> None:
    ledger = Ledger(store)
    await ledger.usage("p1", user="ada", phase="foo", units=4, usage_id="u1")
    usage, story = await told(store, "u1")
    assert usage["units"] == 4
    assert "arrived: 4 units of foo." in story
    await apply_prices(store, {"phases": {"foo": {"per": "item", "credits": 2}}}, None, by="x")
    await charge_unpriced(store)
    await acts.refund(store, usage_id="u1", **by("grace"))
    found = await explain(store, "p1")
    assert found
    assert [found["pipeline"]["usage"][n] for n in ("cost", "refunded", "left")] == [8, 8, 0]
    assert found["pipeline"]["refunds"][0]["usage_id"] == "u1"


async def test_a_pipeline_of_a_member_counts_what_the_org_paid_once(store: Store) -> None:
    await acts.set_balance(store, ORG, 100 * CREDIT, **by("grace"))
    await acts.set_policy(store, ORG, "allocated", **by("grace"))
    await acts.allocate(store, ORG, ADA, 90 * CREDIT, **by("grace"))
    ledger = Ledger(store)
    assert initiated(await ledger.request("p1", user="ada", org="acme"))
    await ledger.usage("p1", user="ada", org="acme", units=5, usage_id="u1")
    await acts.refund(store, usage_id="u1", **by("grace"))
    found = await explain(store, "p1")
    assert found
    sums = [found["pipeline"]["usage"][n] for n in ("events", "cost", "refunded", "left")]
    assert sums == [1, 5, 5, 0]
    back = [e for e in found["pipeline"]["entries"] if e["kind"] == "refund"]
    assert len(back) == 2, "the org's and the member's"
