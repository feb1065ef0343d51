"""Prices for the second ledger: by phase, by model, by tier; nothing cleverer than division."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_CEILING, Decimal
from itertools import combinations
from typing import Any

from tests.unit.core.model_parts import ZERO

from faregate.ledger.core import Usage


@dataclass(frozen=True)
class Offer:
    """What a tier includes each period."""

    credits: Decimal = ZERO
    calls: int | None = None
    rate: Decimal | None = None
    renews: bool = False


TIERS = {
    "free": Offer(),
    "trial": Offer(Decimal(5), 700, Decimal("0.001")),
    "starter": Offer(Decimal(20), 2_000, Decimal("0.002"), renews=True),
    "professional": Offer(Decimal(60), 10_000, Decimal("0.005"), renews=True),
    "platform": Offer(ZERO, 10_000, None, renews=True),
    "enterprise": Offer(Decimal("999999.99"), None, Decimal("0.010"), renews=True),
}
"""The contract's table. Each renews, but for what comes once."""


def up_to(amount: Decimal, step: str) -> Decimal:
    return (amount / Decimal(step)).to_integral_value(ROUND_CEILING) * Decimal(step)


@dataclass
class PriceBook:
    version: int
    since: datetime
    document: Mapping[str, Any]

    def tiers(self) -> dict[str, Offer]:
        if "tiers" not in self.document:
            return TIERS
        return {name: _offer(raw) for name, raw in self.document["tiers"].items()}

    def price(self, usage: Usage, tier: str) -> Decimal | None:
        if usage.model is None:
            return self.phase_price(usage.phase, usage.units or 0)
        model = self.document.get("models", {}).get(usage.model)
        tokens_in, tokens_out = Decimal(usage.input_tokens or 0), Decimal(usage.output_tokens or 0)
        if model is None:
            return None
        if model["kind"] == "vendor":
            usd = tokens_in * Decimal(str(model["input_usd_per_1k"]))
            usd += tokens_out * Decimal(str(model["output_usd_per_1k"]))
            after_margin = usd / 1000 * Decimal("1.5")
            return up_to(after_margin / Decimal("0.01"), str(self.document.get("increment", 0.1)))
        if model["kind"] == "credits_per_1k":
            return up_to((tokens_in + tokens_out) * Decimal(str(model["credits"])) / 1000, "1e-6")
        offer = self.tiers().get(tier)
        if offer is None or offer.rate is None:
            return None
        return up_to((tokens_in + tokens_out) * offer.rate / 1000, "1e-6")

    def depends_on_tier(self, usage: Usage) -> bool:
        model = self.document.get("models", {}).get(usage.model)
        return model is not None and model["kind"] == "tier_rate"

    def phase_price(self, phase: str | None, units: int) -> Decimal | None:
        priced = self.document["phases"].get(phase)
        return None if priced is None else Decimal(str(priced["credits"])) * units

    def run_price(self, phase: str, items: int) -> Decimal | None:
        if phase not in self.document["phases"]:
            return None
        essays = range(items)
        per = self.document["phases"][phase]["per"]
        units = {"item": len(essays), "pair": len(list(combinations(essays, 2))), "flat": 1}[per]
        return self.phase_price(phase, units)


def _offer(raw: Mapping[str, Any]) -> Offer:
    amount = Decimal(str(raw["credits"]))
    rate = Decimal(str(raw["rate"])) if "rate" in raw else None
    return Offer(amount, raw.get("calls"), rate, raw.get("renews", amount > 0))
