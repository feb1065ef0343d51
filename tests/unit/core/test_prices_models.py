"""What tokens cost: the contract's worked numbers, and any book against fractions."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from math import ceil
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faregate.ledger.core.prices import (
    DEFAULT_MODELS,
    DEFAULT_TIERS,
    INCREMENTS,
    Book,
    Books,
    parse_book,
)

START = datetime(2025, 3, 1, 12, 0, tzinfo=UTC)
MICRO = 1_000_000
CENT, TENTH, ONE = 10_000, 100_000, 1_000_000


def book(models: Mapping[str, Any], version: int = 1, **sections: Any) -> Book:
    return parse_book(version, START, {"models": models, **sections})


def usd_per_token(usd: float, **more: Any) -> dict[str, Any]:
    """A vendor model of which one input token costs `usd` before and after the margin of 1."""
    per_1k = Decimal(str(usd)) * 1000
    return {"kind": "vendor", "input_usd_per_1k": per_1k, "output_usd_per_1k": 0, **more}


def one_token(usd_after_margin: float, increment: float = 0.1, **vendor: Any) -> int | None:
    priced = usd_per_token(usd_after_margin, margin=1)
    return book({"m": priced}, increment=increment, vendor=vendor).tokens_cost(
        None, "m", 1, 0, "trial"
    )


@pytest.fixture(scope="module")
def default() -> Book:
    return book(DEFAULT_MODELS)


# The contract's numbers for the increment.


@pytest.mark.parametrize(("increment", "micro"), [(0.1, TENTH), (0.01, CENT), (1.0, ONE)])
def test_6_hundred_thousandths_of_a_dollar_take_one_increment(increment: float, micro: int) -> None:
    assert one_token(0.00006, increment) == micro


@pytest.mark.parametrize(
    ("increment", "micro", "markup"),
    [(0.1, TENTH, 25), (0.01, CENT, Decimal("2.5")), (1.0, ONE, 250)],
)
def test_the_markup_on_a_vendor_cost_of_4_hundred_thousandths(
    increment: float, micro: int, markup: Decimal
) -> None:
    priced = book({"m": usd_per_token(0.00004)}, increment=increment)
    usd = priced.vendor_cost_usd(None, "m", 1, 0)
    cost = priced.tokens_cost(None, "m", 1, 0, "trial")
    assert usd == Decimal("0.00004")
    assert cost == micro
    assert Decimal(cost) / MICRO * Decimal("0.01") / usd == markup


def test_9_hundred_thousandths_take_a_tenth() -> None:
    assert one_token(0.00009) == TENTH


def test_11_hundred_thousandths_take_a_tenth_at_a_cent_per_credit() -> None:
    assert one_token(0.00011) == TENTH


def test_11_hundred_thousandths_take_two_tenths_at_a_tenth_of_a_cent_per_credit() -> None:
    assert one_token(0.00011, usd_per_credit=0.001) == 2 * TENTH


@pytest.mark.parametrize("increment", [0.01, 0.1, 1.0])
def test_a_cost_of_zero_stays_zero(increment: float) -> None:
    assert one_token(0, increment) == 0
    assert one_token(0.00006, increment) != 0
    for model in DEFAULT_MODELS:
        priced = book(DEFAULT_MODELS, increment=increment)
        assert priced.tokens_cost(None, model, 0, 0, "trial") == 0


def test_a_cost_that_is_a_whole_increment_is_not_raised() -> None:
    assert one_token(0.001) == TENTH
    assert one_token(0.001000000001) == 2 * TENTH


# The contract's numbers for the models.


@pytest.mark.parametrize(
    ("tokens", "usd", "micro"),
    [
        ((1000, 500), "0.00045", TENTH),  # x 1.5 = 0.000675 USD = 0.0675 credits
        ((10_000, 2_000), "0.0027", 5 * TENTH),  # x 1.5 = 0.00405 USD = 0.405 credits
        ((1_000_000, 1_000_000), "0.75", 1125 * TENTH),  # x 1.5 = 1.125 USD = 112.5 credits
        ((1, 0), "0.00000015", TENTH),
    ],
)
def test_gpt_4o_mini_by_hand(default: Book, tokens: tuple[int, int], usd: str, micro: int) -> None:
    assert default.vendor_cost_usd("openai", "gpt-4o-mini", *tokens) == Decimal(usd)
    assert default.tokens_cost("openai", "gpt-4o-mini", *tokens, "trial") == micro


@pytest.mark.parametrize(
    ("model", "credits_per_100"),
    [("gpt-3.5-turbo", 9), ("gpt-4", 48), ("gpt-4-turbo", 24), ("claude-3-sonnet", 15)],
)
def test_credits_per_100_tokens(default: Book, model: str, credits_per_100: int) -> None:
    for tokens in ((100, 0), (0, 100), (60, 40)):
        assert default.tokens_cost(None, model, *tokens, "free") == credits_per_100 * MICRO
    assert default.vendor_cost_usd(None, model, 100, 100)


def test_the_providers_own_cost_stands_beside(default: Book) -> None:
    assert default.vendor_cost_usd("openai", "gpt-4", 1000, 1000) == Decimal("0.09")
    bare = book({"gpt-4": {"kind": "credits_per_1k", "credits": 480}})
    assert bare.vendor_cost_usd(None, "gpt-4", 1000, 1000) is None
    assert bare.vendor_cost_usd(None, "gpt-5", 1000, 1000) is None


def test_a_cost_in_dollars_is_exact_to_the_last_digit() -> None:
    usd = Decimal("999999999.999999999999")
    beside = {"input_usd_per_1k": usd, "output_usd_per_1k": usd}
    cost = book({"m": {"kind": "tier_rate", **beside}}).vendor_cost_usd(None, "m", 10**9, 1)
    assert cost == Decimal("1000000000999999.999998999999999")


def test_credits_per_1k_round_up_to_a_micro_credit_whatever_the_increment() -> None:
    priced = book({"m": {"kind": "credits_per_1k", "credits": 0.000001}}, increment=1)
    assert priced.tokens_cost(None, "m", 1, 0, "trial") == 1
    assert priced.tokens_cost(None, "m", 1000, 1, "trial") == 2


@pytest.mark.parametrize(
    ("tier", "micro"),
    [("trial", 1000), ("starter", 2000), ("professional", 5000), ("enterprise", 10_000)],
)
def test_a_tier_has_its_rate_per_1k_tokens(tier: str, micro: int) -> None:
    priced = book({"openai/gpt-x": {"kind": "tier_rate"}})
    assert priced.tokens_cost("openai", "gpt-x", 400, 600, tier) == micro
    assert priced.tokens_cost("openai", "gpt-x", 1, 0, tier) == micro // 1000
    assert priced.vendor_cost_usd("openai", "gpt-x", 1, 0) is None


def test_a_rate_below_a_micro_credit_rounds_up() -> None:
    tiers = {"t": {"credits": 1, "rate": 0.0000005}, "gift": {"credits": 1, "rate": 0}}
    priced = book({"m": {"kind": "tier_rate"}}, tiers=tiers)
    assert priced.tokens_cost(None, "m", 1, 0, "t") == 1
    assert priced.tokens_cost(None, "m", 2000, 1, "t") == 2
    assert priced.tokens_cost(None, "m", 2000, 1, "gift") == 0


@pytest.mark.parametrize("tier", ["free", "platform", "nobody"])
def test_a_tier_without_a_rate_has_no_price_and_that_is_not_free(tier: str) -> None:
    priced = book({**DEFAULT_MODELS, "m": {"kind": "tier_rate"}})
    assert priced.tokens_cost(None, "m", 1, 1, tier) is None
    assert priced.tokens_cost(None, "m", 0, 0, tier) is None
    assert priced.tokens_cost(None, "gpt-4", 100, 0, tier) == 48 * MICRO


def test_the_default_tiers_are_the_contracts() -> None:
    table = {t.name: (t.credits_micro, t.calls, t.rate, t.renews) for t in DEFAULT_TIERS.values()}
    assert table == {
        "free": (0, None, None, False),
        "trial": (5 * MICRO, 700, 1000, False),
        "starter": (20 * MICRO, 2000, 2000, True),
        "professional": (60 * MICRO, 10_000, 5000, True),
        "platform": (0, 10_000, None, True),
        "enterprise": (999_999_990_000, None, 10_000, True),
    }


def test_tokens_below_zero_are_never_a_gift(default: Book) -> None:
    for tokens in ((-1, 1), (1, -1)):
        with pytest.raises(ValueError, match="0 or more"):
            default.tokens_cost("openai", "gpt-4", *tokens, "trial")


# Names.


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("openai", "gpt-4o-mini"),
        ("openai", "openai/gpt-4o-mini"),
        (None, "openai/gpt-4o-mini"),
        (None, "gpt-4o-mini"),
    ],
)
def test_a_model_is_found_by_each_of_its_names(
    default: Book, provider: str | None, model: str
) -> None:
    found = default.model(provider, model)
    assert found is not None
    assert found.name == "openai/gpt-4o-mini"


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("azure", "gpt-4o-mini"),
        ("azure", "openai/gpt-4o-mini"),
        (None, "azure/gpt-4o-mini"),
        (None, "azure/openai/gpt-4o-mini"),
        (None, "gpt-4o"),
        (None, ""),
        ("", "gpt-4o-mini"),
        ("openai", ""),
        (None, "openai/"),
        (None, "GPT-4o-mini"),
    ],
)
def test_another_providers_model_is_another_model(
    default: Book, provider: str | None, model: str
) -> None:
    assert default.model(provider, model) is None
    assert default.tokens_cost(provider, model, 0, 0, "trial") is None
    assert not default.is_active(provider, model)


def per_1k(credit: int, **more: Any) -> dict[str, Any]:
    return {"kind": "credits_per_1k", "credits": credit, **more}


def test_a_bare_name_that_means_two_models_means_none() -> None:
    both = book({"openai/m": per_1k(1), "azure/m": per_1k(2)})
    assert both.model(None, "m") is None
    assert both.tokens_cost("azure", "m", 1000, 0, "trial") == 2 * MICRO
    assert both.tokens_cost(None, "openai/m", 1000, 0, "trial") == 1 * MICRO


@pytest.mark.parametrize(
    ("provider", "model"),
    [(None, "m"), ("openai", "m"), ("azure", "azure/m"), (None, "azure/m")],
)
def test_a_model_listed_without_provider_is_found_with_any(
    provider: str | None, model: str
) -> None:
    found = book({"m": per_1k(1)}).model(provider, model)
    assert found is not None
    assert (found.provider, found.bare_name) == (None, "m")


def test_the_most_exact_listing_wins() -> None:
    mixed = book(
        {"m": per_1k(1), "openai/m": per_1k(2), "router/openai/m": per_1k(3)},
    )
    costs = {
        (provider, model): mixed.tokens_cost(provider, model, 1000, 0, "trial")
        for provider in (None, "openai", "router", "azure")
        for model in ("m", "openai/m", "router/openai/m")
    }
    assert {name: cost // MICRO if cost else cost for name, cost in costs.items()} == {
        (None, "m"): 1,
        (None, "openai/m"): 2,
        (None, "router/openai/m"): 3,
        ("openai", "m"): 2,
        ("openai", "openai/m"): 2,
        ("openai", "router/openai/m"): None,
        ("router", "m"): 1,
        ("router", "openai/m"): 3,
        ("router", "router/openai/m"): 3,
        ("azure", "m"): 1,
        ("azure", "openai/m"): None,
        ("azure", "router/openai/m"): None,
    }


# Inactive providers and models.


def test_what_is_inactive_still_has_its_cost() -> None:
    priced = book(
        {"openai/on": per_1k(1), "openai/off": per_1k(1, active=False), "azure/m": per_1k(1)},
        providers={"azure": {"active": False}, "openai": {}},
    )
    names = ("on", "off", "m")
    assert [priced.is_active(None, name) for name in names] == [True, False, False]
    assert {priced.tokens_cost(None, name, 1000, 0, "trial") for name in names} == {MICRO}


def test_a_model_of_any_provider_is_as_active_as_the_provider_named() -> None:
    priced = book({"m": per_1k(1)}, providers={"azure": {"active": False}})
    assert priced.is_active(None, "m")
    assert priced.is_active("openai", "m")
    assert not priced.is_active("azure", "m")
    assert not priced.is_active(None, "azure/m")


# Versions.


def test_the_first_version_with_a_price_for_a_model() -> None:
    starts = [START + timedelta(days=n) for n in range(4)]
    documents: list[dict[str, Any]] = [{}, {}, {"m": per_1k(1)}, {"m": per_1k(2)}]
    books = Books({n: parse_book(n, at, {"models": documents[n]}) for n, at in enumerate(starts)})

    def price(version: Book) -> int | None:
        return version.tokens_cost(None, "m", 1000, 0, "trial")

    first = books.first_with(price, starts[0], starts[3])
    assert first is not None
    assert first.version == 2
    assert books.first_with(price, starts[0], starts[1]) is None
    later = books.first_with(price, starts[2], starts[3])
    assert later is not None
    assert later.version == 3


# Any book, against fractions.

prices = st.decimals(0, 99, places=6)  # below 10^9 credits at any margin
tokens = st.integers(0, 10**9)
increments = st.sampled_from(sorted(INCREMENTS))


def rounded_up(micro: Fraction, step: int) -> int:
    return ceil(micro / step) * step


@given(
    prices,
    prices,
    st.decimals("0.01", 1000, places=2),
    st.decimals("0.0001", 10, places=4),
    increments,
    tokens,
    tokens,
)
def test_any_vendor_price_is_the_fraction_rounded_up(
    usd_in: Decimal, usd_out: Decimal, margin: Decimal, usd: Decimal, step: int, n: int, m: int
) -> None:
    model = {"kind": "vendor", "input_usd_per_1k": usd_in, "output_usd_per_1k": usd_out}
    priced = book(
        {"a/m": model, "b/m": {**model, "margin": margin}},
        vendor={"margin": margin, "usd_per_credit": usd},
        increment=Decimal(step) / MICRO,
    )
    dollars = (n * Fraction(usd_in) + m * Fraction(usd_out)) / 1000
    expected = rounded_up(dollars * Fraction(margin) / Fraction(usd) * MICRO, step)
    assert priced.tokens_cost("a", "m", n, m, "trial") == expected
    assert priced.tokens_cost("b", "m", n, m, "none") == expected
    vendor_cost = priced.vendor_cost_usd("a", "m", n, m)
    assert vendor_cost is not None
    assert Fraction(vendor_cost) == dollars


@given(st.decimals(0, 10**9 - 1, places=6), st.decimals(0, 1000, places=12), tokens, tokens)
def test_any_other_price_is_the_fraction_rounded_up(
    per_1k_tokens: Decimal, rate: Decimal, n: int, m: int
) -> None:
    models = {"c": {"kind": "credits_per_1k", "credits": per_1k_tokens}, "t": {"kind": "tier_rate"}}
    priced = book(models, tiers={"x": {"credits": 1, "rate": rate}}, increment=1)
    for model, price in (("c", per_1k_tokens), ("t", rate)):
        micro = (n + m) * Fraction(price) * MICRO / 1000
        assert priced.tokens_cost(None, model, n, m, "x") == rounded_up(micro, 1)


@given(prices, prices, increments, tokens, tokens, tokens, tokens)
def test_more_tokens_are_never_cheaper(
    usd_in: Decimal, usd_out: Decimal, step: int, n: int, m: int, more_n: int, more_m: int
) -> None:
    vendor = {"kind": "vendor", "input_usd_per_1k": usd_in, "output_usd_per_1k": usd_out}
    priced = book(
        {
            "v": vendor,
            "c": {"kind": "credits_per_1k", "credits": usd_in},
            "t": {"kind": "tier_rate"},
        },
        increment=Decimal(step) / MICRO,
    )
    for model in "vct":
        less = priced.tokens_cost(None, model, n, m, "trial")
        more = priced.tokens_cost(None, model, n + more_n, m + more_m, "trial")
        assert less is not None
        assert more is not None
        assert 0 <= less <= more
