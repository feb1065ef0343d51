"""The price books of the simulation, and what they make things cost, worked out a second time.

The second opinion reads the documents alone: Fractions of what is written, nothing of the core.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from functools import cache
from math import ceil, comb
from typing import Any

from faregate.ledger.core import Book, parse_book
from faregate.ledger.core.accounts import EPOCH

MICRO = 1_000_000
INCREMENTS = (0.1, 0.01, 1.0)
PHASES = ("free_check", "score", "compare", "report", "extra")
MODELS = ("openai/mini", "openai/fixed", "acme/own", "acme/new")
TIERS = ("free", "trial", "starter", "professional", "platform")


def _book(
    phases: dict[str, tuple[str, float]],
    models: dict[str, dict[str, Any]],
    tiers: dict[str, tuple[float, int | None, float | None]],
    margin: float,
) -> dict[str, Any]:
    return {
        "pipelines": {
            "essay": ["free_check", "compare"],
            "full": [*PHASES[:4]],
            "short": ["score"],
            "check": ["free_check"],
        },
        "phases": {n: {"per": per, "credits": c} for n, (per, c) in phases.items()},
        "models": models,
        "vendor": {"margin": margin, "usd_per_credit": 0.01},
        "tiers": {n: _tier(*t) for n, t in tiers.items()},
    }


def _tier(gives: float, calls: int | None, rate: float | None) -> dict[str, Any]:
    tier: dict[str, Any] = {"credits": gives, "renews": gives > 5}
    if calls is not None:
        tier["calls"] = calls
    if rate is not None:
        tier["rate"] = rate
    return tier


_MINI = {"kind": "vendor", "input_usd_per_1k": 0.00015, "output_usd_per_1k": 0.0006}
_FIXED = {"kind": "credits_per_1k", "credits": 90, "input_usd_per_1k": 1, "output_usd_per_1k": 2}
_TIERS: dict[str, tuple[float, int | None, float | None]] = {
    "free": (0, None, None),
    "trial": (5, 4, 0.1),
    "starter": (20, 8, 0.2000003),
    "professional": (60, 12, 0.5),
    "platform": (0, 6, None),
}
_PHASES = {
    "free_check": ("item", 0.0),
    "score": ("item", 0.5),
    "compare": ("pair", 1.0),
    "report": ("flat", 3.0),
}

DOCUMENTS: tuple[Mapping[str, Any], ...] = (
    _book(
        _PHASES,
        {"openai/mini": _MINI, "openai/fixed": _FIXED, "acme/own": {"kind": "tier_rate"}},
        _TIERS,
        1.5,
    ),
    _book(
        {**_PHASES, "score": ("item", 0.700001), "extra": ("item", 2.0)},
        {
            "openai/mini": {**_MINI, "margin": 2.25},
            "openai/fixed": {**_FIXED, "credits": 30.33},
            "acme/own": {"kind": "tier_rate"},
            "acme/new": {"kind": "credits_per_1k", "credits": 7},
        },
        {**_TIERS, "starter": (25, 9, 0.3), "professional": (60, None, 0.5)},
        1.1,
    ),
    _book(
        {k: v for k, v in _PHASES.items() if k != "report"} | {"compare": ("pair", 0.1)},
        {"openai/mini": _MINI, "acme/own": {"kind": "credits_per_1k", "credits": 1.000001}},
        {**_TIERS, "trial": (5, 3, 1.5), "platform": (0, 6, 0.000001)},
        3,
    ),
)


@cache
def _parsed(document: int, increment: int) -> Book:
    return parse_book(1, EPOCH, {**DOCUMENTS[document], "increment": INCREMENTS[increment]})


@cache
def make_book(version: int, since: datetime, document: int, increment: int) -> Book:
    return replace(_parsed(document, increment), version=version, effective_from=since)


class Price:
    """One version of the prices as its document says it, for the second opinion."""

    __slots__ = ("document", "increment", "since", "version", "which")

    def __init__(self, version: int, since: datetime, document: int, increment: int) -> None:
        self.version = version
        self.since = since
        self.which = document
        self.document = DOCUMENTS[document]
        self.increment = increment

    def phase(self, name: str, units: int) -> int | None:
        return _phase(self.which, name, units)

    def run(self, phases: tuple[str, ...], items: int) -> int | None:
        total = 0
        for name in phases:
            listed = self.document["phases"].get(name)
            if listed is None:
                return None
            units = {"item": items, "pair": comb(items, 2), "flat": 1}[listed["per"]]
            total += _phase(self.which, name, units) or 0
        return total

    def tokens(self, model: str, tokens_in: int, tokens_out: int, tier: str) -> int | None:
        rates = _rates(self.which, self.increment, model, tier)
        if rates is None:
            return None
        per_in, per_out, step = rates
        return ceil((tokens_in * per_in + tokens_out * per_out) / (1000 * step)) * step

    def by_tier(self, model: str) -> bool:
        listed = self.document["models"].get(model)
        return listed is not None and listed["kind"] == "tier_rate"

    def tier(self, name: str) -> tuple[int, int | None, bool]:
        """Micro-credits included, calls, and whether it renews."""
        listed = self.document["tiers"].get(name, {"credits": 0, "renews": False})
        return int(listed["credits"] * MICRO), listed.get("calls"), listed["renews"]


@cache
def _phase(document: int, name: str, units: int) -> int | None:
    listed = DOCUMENTS[document]["phases"].get(name)
    return None if listed is None else int(Decimal(str(listed["credits"])) * units * MICRO)


def _exact(value: float) -> Fraction:
    return Fraction(str(value))


@cache
def _rates(
    document: int, increment: int, model: str, tier: str
) -> tuple[Fraction, Fraction, int] | None:
    """Micro-credits per 1,000 tokens in and out, and what the sum is rounded up to."""
    book = DOCUMENTS[document]
    listed = book["models"].get(model)
    if listed is None:
        return None
    if listed["kind"] == "credits_per_1k":
        rate = _exact(listed["credits"]) * MICRO
        return rate, rate, 1
    if listed["kind"] == "tier_rate":
        found = book["tiers"].get(tier, {}).get("rate")
        return None if found is None else (_exact(found) * MICRO, _exact(found) * MICRO, 1)
    margin = _exact(listed.get("margin", book["vendor"]["margin"]))
    factor = margin / _exact(book["vendor"]["usd_per_credit"]) * MICRO
    per_in, per_out = _exact(listed["input_usd_per_1k"]), _exact(listed["output_usd_per_1k"])
    return per_in * factor, per_out * factor, int(_exact(INCREMENTS[increment]) * MICRO)


def in_force(prices: list[Price], at: datetime) -> Price | None:
    """The latest start, then the highest number."""
    best = None
    for price in prices:
        if price.since <= at and (best is None or price.since >= best.since):
            best = price
    return best
