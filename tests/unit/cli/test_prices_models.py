"""How the price of a call is told: every step that leads to it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from faregate.ledger.core import Book, parse_book
from faregate.runtime.cli.base import Refused
from faregate.runtime.cli.prices_models import explain_model

MINI = {"kind": "vendor", "input_usd_per_1k": 0.00015, "output_usd_per_1k": 0.0006}


def book(models: dict[str, Any], **more: Any) -> Book:
    return parse_book(7, datetime(2026, 1, 1, tzinfo=UTC), {"models": models, **more})


@pytest.mark.parametrize(("increment", "credits_"), [(0.1, 0.1), (0.01, 0.01), (1.0, 1)], ids=str)
def test_a_vendor_price_is_told_step_by_step(increment: float, credits_: float) -> None:
    found = explain_model(
        book({"openai/gpt-4o-mini": MINI}, increment=increment), "gpt-4o-mini", (200, 16), None
    )
    assert (found["name"], found["price"]) == ("openai/gpt-4o-mini", "vendor")
    assert (found["required_credits"], found["increment"]) == (credits_, increment)
    assert found["vendor_cost_usd"] == 0.0000396
    assert "x margin 1.5 = $0.0000594; / $0.01 a credit = 0.00594; up to the next" in found["how"]


def test_a_price_by_tier_needs_the_tier() -> None:
    prices = book({"house/tutor": {"kind": "tier_rate"}})
    found = explain_model(prices, "tutor", (1500, 500), "professional")
    assert (found["required_credits"], found["tier"]) == (0.01, "professional")
    assert "2,000 x 0.005 / 1,000 (tier professional) = 0.01 credits" in found["how"]
    with pytest.raises(Refused, match="one of: trial, starter, professional, enterprise"):
        explain_model(prices, "tutor", (1, 1), None)


def test_a_name_that_means_several_says_which() -> None:
    flat = {"kind": "credits_per_1k", "credits": 9}
    prices = book({"a/same": flat, "b/same": flat}, providers={"b": {"active": False}})
    with pytest.raises(Refused, match="several providers have one: a/same, b/same"):
        explain_model(prices, "same", (1, 1), None)
    assert explain_model(prices, "a/same", (1000, 0), None)["required_credits"] == 9
    assert explain_model(prices, "b/same", (1000, 0), None)["active"] is False
    with pytest.raises(Refused, match="did you mean a/same"):
        explain_model(prices, "a/sam", (1, 1), None)
