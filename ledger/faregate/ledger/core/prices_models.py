"""What is priced: phases, models by their tokens, and the tiers that users are on.

Amounts of credits are integer micro-credits. Rates are exact fractions, never floats.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Context, Decimal, localcontext
from fractions import Fraction
from math import lcm
from typing import Any, Literal

from faregate.events.amounts import MICRO

Per = Literal["item", "pair", "flat"]
ModelKind = Literal["vendor", "credits_per_1k", "tier_rate"]

DEFAULT_MARGIN = Decimal("1.5")
DEFAULT_USD_PER_CREDIT = Decimal("0.01")

DEFAULT_MODELS: Mapping[str, Mapping[str, Any]] = {
    "openai/gpt-4o-mini": {
        "kind": "vendor",
        "input_usd_per_1k": 0.00015,
        "output_usd_per_1k": 0.0006,
    },
    "openai/gpt-3.5-turbo": {
        "kind": "credits_per_1k",
        "credits": 90,
        "input_usd_per_1k": 0.0005,
        "output_usd_per_1k": 0.0015,
    },
    "openai/gpt-4": {
        "kind": "credits_per_1k",
        "credits": 480,
        "input_usd_per_1k": 0.03,
        "output_usd_per_1k": 0.06,
    },
    "openai/gpt-4-turbo": {
        "kind": "credits_per_1k",
        "credits": 240,
        "input_usd_per_1k": 0.01,
        "output_usd_per_1k": 0.03,
    },
    "anthropic/claude-3-sonnet": {
        "kind": "credits_per_1k",
        "credits": 150,
        "input_usd_per_1k": 0.003,
        "output_usd_per_1k": 0.015,
    },
}
"""The section `models` of the default book, as it is written in a document."""

_EXACT = Context(prec=100)
"""Carries every sum in USD without rounding: prices have 12 decimals, token counts 10 digits."""


@dataclass(frozen=True, slots=True)
class PhasePrice:
    """The price of one phase: `micro` micro-credits for each unit."""

    per: Per
    micro: int

    def units_for(self, items: int) -> int:
        """Give the units that a run over `items` items takes."""
        if self.per == "pair":
            return items * (items - 1) // 2
        return items if self.per == "item" else 1


@dataclass(frozen=True, slots=True)
class TokenRate:
    """Micro-credits for tokens: so many steps of `step` micro-credits, rounded up to a whole one.

    The steps are (input tokens x `input` + output tokens x `output`) / `denominator`.
    """

    input: int
    output: int
    denominator: int
    step: int = 1

    def cost(self, input_tokens: int, output_tokens: int) -> int:
        """Price tokens in micro-credits. Raises ValueError for a negative count."""
        if input_tokens < 0 or output_tokens < 0:
            raise ValueError("a count of tokens is 0 or more")
        parts = input_tokens * self.input + output_tokens * self.output
        return -(-parts // self.denominator) * self.step


def token_rate(input_per_1k: Fraction, output_per_1k: Fraction, step: int = 1) -> TokenRate:
    """Make a rate of two prices in micro-credits per 1K tokens; costs are multiples of `step`."""
    input_steps, output_steps = input_per_1k / (1000 * step), output_per_1k / (1000 * step)
    denominator = lcm(input_steps.denominator, output_steps.denominator)
    return TokenRate(
        input_steps.numerator * (denominator // input_steps.denominator),
        output_steps.numerator * (denominator // output_steps.denominator),
        denominator,
        step,
    )


@dataclass(frozen=True, slots=True)
class Tier:
    """A plan: what it includes each period and what it pays for models priced by tier.

    `credits_micro` are the micro-credits included, `calls` the quota (None: no quota), `rate` the
    micro-credits per 1K tokens (None: models of kind `tier_rate` have no price for it).
    """

    name: str
    credits_micro: int
    calls: int | None = None
    rate: Fraction | None = None
    renews: bool = True


DEFAULT_TIERS: Mapping[str, Tier] = {
    tier.name: tier
    for tier in (
        Tier("free", 0, renews=False),
        Tier("trial", 5 * MICRO, 700, Fraction(1_000), renews=False),
        Tier("starter", 20 * MICRO, 2_000, Fraction(2_000)),
        Tier("professional", 60 * MICRO, 10_000, Fraction(5_000)),
        Tier("platform", 0, 10_000),
        Tier("enterprise", 999_999_990_000, None, Fraction(10_000)),
    )
}
"""The tiers of a document that has no section `tiers` (contract: Tiers)."""


@dataclass(frozen=True, slots=True)
class ModelPrice:
    """The price of one model, as the book lists it; `name` is `provider/model` or just `model`.

    `vendor` takes the USD per 1K tokens times the margin (the book's, unless the model has one);
    `credits_per_1k` takes `micro_per_1k` micro-credits per 1K tokens; `tier_rate` takes the rate
    of the user's tier. The USD prices are the provider's own and may stand beside the last two.
    """

    name: str
    kind: ModelKind
    input_usd_per_1k: Decimal | None = None
    output_usd_per_1k: Decimal | None = None
    micro_per_1k: int | None = None
    margin: Decimal | None = None
    active: bool = True

    @property
    def provider(self) -> str | None:
        """The provider that the book lists the model under, if any."""
        provider, slash, _ = self.name.partition("/")
        return provider if slash else None

    @property
    def bare_name(self) -> str:
        """The name without its provider."""
        return self.name.removeprefix(f"{self.provider}/")

    def vendor_cost_usd(self, input_tokens: int, output_tokens: int) -> Decimal | None:
        """Give what the provider takes for tokens, in USD; None if the book does not say."""
        if self.input_usd_per_1k is None or self.output_usd_per_1k is None:
            return None
        with localcontext(_EXACT):
            usd = input_tokens * self.input_usd_per_1k + output_tokens * self.output_usd_per_1k
            return (usd / 1000).normalize()

    def rate(self, margin: Decimal, usd_per_credit: Decimal, increment: int) -> TokenRate | None:
        """Make the rate that is the same for all tiers; None for `tier_rate`.

        `margin` counts where the model has none; `increment` is in micro-credits.
        """
        if self.micro_per_1k is not None:
            return token_rate(Fraction(self.micro_per_1k), Fraction(self.micro_per_1k))
        if self.kind != "vendor" or self.input_usd_per_1k is None or self.output_usd_per_1k is None:
            return None
        factor = Fraction(self.margin or margin) * MICRO / Fraction(usd_per_credit)
        usd_in, usd_out = Fraction(self.input_usd_per_1k), Fraction(self.output_usd_per_1k)
        return token_rate(usd_in * factor, usd_out * factor, increment)


def find_model(
    models: Mapping[str, ModelPrice],
    unique: Mapping[str, ModelPrice],
    provider: str | None,
    model: str,
) -> ModelPrice | None:
    """Look up a model by all the ways to name it; the most exact one wins.

    `models` are all by listed name, `unique` those by `unique_names`. The provider can be given
    apart, as a prefix of `model`, both (they must agree) or not at all.
    """
    for of, name in _readings(provider, model):
        price = models.get(name)
        if price is not None and (of is None or price.provider in {None, of}):
            return price
    return unique.get(model) if provider is None else None


def unique_names(models: Mapping[str, ModelPrice]) -> dict[str, ModelPrice]:
    """Give the models that their bare name alone identifies, by that name."""
    by_name: dict[str, list[ModelPrice]] = {}
    for price in models.values():
        by_name.setdefault(price.bare_name, []).append(price)
    return {name: prices[0] for name, prices in by_name.items() if len(prices) == 1}


def _readings(provider: str | None, model: str) -> Iterator[tuple[str | None, str]]:
    """Give the provider and the listed name that can be meant, the most exact reading first."""
    prefix, slash, rest = model.partition("/")
    if provider is not None:
        yield provider, f"{provider}/{model}"
    yield provider, model
    if slash and provider in {None, prefix}:
        yield prefix, rest
