"""The price book: what phases and models cost, in which version, from when on.

A phase costs so much per item, per pair of items (n(n-1)/2) or flat; a model costs by its tokens
(contract: Prices). An explicit zero is a price; what is not in the book has none, and that is
never zero. All arithmetic is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from faregate.events.amounts import to_credits
from faregate.ledger.core.prices_document import (
    parse_model,
    parse_phase,
    parse_pipeline,
    parse_provider,
    parse_tier,
    parse_vendor,
    require_sections,
    section,
)
from faregate.ledger.core.prices_models import (
    DEFAULT_MARGIN,
    DEFAULT_MODELS,
    DEFAULT_TIERS,
    DEFAULT_USD_PER_CREDIT,
    ModelKind,
    ModelPrice,
    Per,
    PhasePrice,
    Tier,
    TokenRate,
    find_model,
    token_rate,
    unique_names,
)
from faregate.ledger.core.prices_values import (
    DEFAULT_INCREMENT,
    INCREMENTS,
    InvalidBook,
    InvalidIncrement,
    parse_increment,
)

__all__ = [
    "DEFAULT_INCREMENT",
    "DEFAULT_MARGIN",
    "DEFAULT_MODELS",
    "DEFAULT_TIERS",
    "DEFAULT_USD_PER_CREDIT",
    "INCREMENTS",
    "Book",
    "Books",
    "InvalidBook",
    "InvalidIncrement",
    "ModelKind",
    "ModelPrice",
    "Per",
    "PhasePrice",
    "Tier",
    "TokenRate",
    "parse_book",
    "parse_increment",
    "with_increment",
]


@dataclass(frozen=True, slots=True)
class Book:
    """One version of the prices, in force from `effective_from` until a later one is.

    `models` are by their listed name, `providers` say which are active (one not named is), and
    `increment` is in micro-credits: vendor prices are rounded up to it.
    """

    version: int
    effective_from: datetime
    pipelines: Mapping[str, tuple[str, ...]]
    phases: Mapping[str, PhasePrice]
    models: Mapping[str, ModelPrice] = field(default_factory=dict)
    providers: Mapping[str, bool] = field(default_factory=dict)
    tiers: Mapping[str, Tier] = field(default_factory=lambda: DEFAULT_TIERS)
    increment: int = DEFAULT_INCREMENT
    margin: Decimal = DEFAULT_MARGIN
    usd_per_credit: Decimal = DEFAULT_USD_PER_CREDIT
    _unique: Mapping[str, ModelPrice] = field(init=False, repr=False, compare=False)
    _rates: Mapping[str, TokenRate] = field(init=False, repr=False, compare=False)
    _tier_rates: Mapping[str, TokenRate] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Work out what every cost needs, so that a cost is one integer division."""
        terms = (self.margin, self.usd_per_credit, self.increment)
        rates = {name: rate for name, m in self.models.items() if (rate := m.rate(*terms))}
        tiers = {n: token_rate(t.rate, t.rate) for n, t in self.tiers.items() if t.rate is not None}
        object.__setattr__(self, "_unique", unique_names(self.models))
        object.__setattr__(self, "_rates", rates)
        object.__setattr__(self, "_tier_rates", tiers)

    def required(self, phases: Sequence[str], items: int) -> int | None:
        """Price a run of `phases` over `items` in micro-credits; None if a phase has no price."""
        total = 0
        for phase in phases:
            price = self.phases.get(phase)
            if price is None:
                return None
            total += price.micro * price.units_for(items)
        return total

    def cost(self, phase: str | None, units: int | None) -> int | None:
        """Price `units` of usage of `phase` in micro-credits; None if it has no price."""
        price = self.phases.get(phase) if phase is not None else None
        return None if price is None or units is None else price.micro * units

    def model(self, provider: str | None, model: str) -> ModelPrice | None:
        """Find a model; None if it is not listed, or if its bare name means several.

        The provider can be left out where the bare name is unique, or be a prefix of `model`. A
        model listed without a provider is found with any.
        """
        return find_model(self.models, self._unique, provider, model)

    def tokens_cost(
        self, provider: str | None, model: str, input_tokens: int, output_tokens: int, tier: str
    ) -> int | None:
        """Price tokens for a user on `tier` in micro-credits; None if there is no price.

        What is inactive has its cost all the same: usage that has happened is charged.
        """
        price = self.model(provider, model)
        if price is None:
            return None
        by_tier = price.kind == "tier_rate"
        rate = self._tier_rates.get(tier) if by_tier else self._rates.get(price.name)
        return None if rate is None else rate.cost(input_tokens, output_tokens)

    def vendor_cost_usd(
        self, provider: str | None, model: str, input_tokens: int, output_tokens: int
    ) -> Decimal | None:
        """Give what the provider takes, in USD before the margin; None if the book has no price.

        Exact. Write it with `format(usd, "f")`: `str` may give an exponent.
        """
        price = self.model(provider, model)
        return None if price is None else price.vendor_cost_usd(input_tokens, output_tokens)

    def is_active(self, provider: str | None, model: str) -> bool:
        """Say whether requests for the model are let in; one that is not in the book is not."""
        price = self.model(provider, model)
        if price is None or not price.active:
            return False
        prefix, slash, _ = model.partition("/")
        named = price.provider or provider or (prefix if slash else None)
        return named is None or self.providers.get(named, True)


@dataclass(frozen=True, slots=True)
class Books:
    """All versions of the price book."""

    versions: Mapping[int, Book] = field(default_factory=dict)

    def in_force(self, at: datetime) -> Book | None:
        """Give the version in force at `at`: the latest start, then the highest number."""
        started = (b for b in self.versions.values() if b.effective_from <= at)
        return max(started, key=lambda b: (b.effective_from, b.version), default=None)

    def first_with(
        self, price: Callable[[Book], int | None], after: datetime, until: datetime
    ) -> Book | None:
        """Give the first version that started in (`after`, `until`] and that `price` prices."""
        later = [b for b in self.versions.values() if after < b.effective_from <= until]
        priced = (b for b in later if price(b) is not None)
        return min(priced, key=lambda b: (b.effective_from, b.version), default=None)

    def first_priced(
        self, phase: str | None, units: int | None, after: datetime, until: datetime
    ) -> Book | None:
        """Give the first version that started in (`after`, `until`] and prices `phase`."""
        return self.first_with(lambda book: book.cost(phase, units), after, until)


def parse_book(version: int, effective_from: datetime, document: Mapping[str, Any]) -> Book:
    """Check and read a book as it is written in a price file or stored.

    Every section may be left out: `pipelines`, `phases`, `vendor`, `increment`, `providers`,
    `models`, `tiers`. Raises InvalidBook with what to change.
    """
    require_sections(document)
    margin, usd_per_credit = parse_vendor(section(document, "vendor"))
    models = section(document, "models").items()
    tiers = {n: parse_tier(n, t) for n, t in section(document, "tiers").items()}
    return Book(
        version,
        effective_from,
        pipelines={n: parse_pipeline(n, p) for n, p in section(document, "pipelines").items()},
        phases={n: parse_phase(n, p) for n, p in section(document, "phases").items()},
        models={n: parse_model(n, m, margin, usd_per_credit) for n, m in models},
        providers={n: parse_provider(n, p) for n, p in section(document, "providers").items()},
        tiers=tiers if "tiers" in document else DEFAULT_TIERS,
        increment=parse_increment(document["increment"])
        if "increment" in document
        else DEFAULT_INCREMENT,
        margin=margin,
        usd_per_credit=usd_per_credit,
    )


def with_increment(document: Mapping[str, Any], increment_micro: int) -> dict[str, Any]:
    """Give the same document with another increment (micro-credits), for a new version.

    Raises InvalidIncrement if it is none of `INCREMENTS`.
    """
    micro = parse_increment(to_credits(increment_micro))
    return {**document, "increment": to_credits(micro)}
