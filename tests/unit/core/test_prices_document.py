"""Reading the sections of a price document: what is not certain is refused, by name."""

import json
import tomllib
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faregate.ledger.core.prices import (
    DEFAULT_MODELS,
    DEFAULT_TIERS,
    INCREMENTS,
    Book,
    InvalidBook,
    InvalidIncrement,
    parse_book,
    parse_increment,
    with_increment,
)

START = datetime(2025, 3, 1, 12, 0, tzinfo=UTC)
VENDOR: dict[str, Any] = {"kind": "vendor", "input_usd_per_1k": 0.1, "output_usd_per_1k": 0.2}
PER_1K: dict[str, Any] = {"kind": "credits_per_1k", "credits": 90}
MANY = 10**20
WRITTEN = """
increment = 0.01
[vendor]
margin = 2
[providers.openai]
active = false
[models."openai/gpt-4o-mini"]
kind = "vendor"
input_usd_per_1k = 0.00015
output_usd_per_1k = 0.0006
[tiers.gold]
credits = 1.5
rate = 0.001
[tiers.idle]
credits = 0
"""
NOT_NUMBERS: list[object] = [
    None,
    "1",
    True,
    -1,
    -0.001,
    float("nan"),
    float("inf"),
    10**9,
    10**5000,
    1e300,
]
NOT_NUMBERS += [Decimal("NaN"), Decimal("sNaN"), Decimal("Infinity"), 1e-13, 0.1 + 0.2, []]
NOT_NUMBERS += [Decimal("1E-999999999"), Decimal("1E+999999999")]


def read(document: Any) -> Book:
    return parse_book(1, START, document)


def short(value: object) -> str:
    if isinstance(value, int) and abs(value) > MANY:
        return "many"  # Python writes no integers of thousands of digits
    return repr(value)[:40]


def test_a_book_reads_the_same_from_toml_and_json() -> None:
    document = tomllib.loads(WRITTEN)
    book = read(document)
    assert book == read(json.loads(json.dumps(document)))
    assert book == read(tomllib.loads(WRITTEN, parse_float=Decimal))
    assert (book.increment, book.margin, book.usd_per_credit) == (
        10_000,
        Decimal(2),
        Decimal("0.01"),
    )
    assert book.providers == {"openai": False}
    gold, idle = book.tiers["gold"], book.tiers["idle"]
    assert (gold.credits_micro, gold.calls, gold.rate, gold.renews) == (
        1_500_000,
        None,
        Fraction(1000),
        True,
    )
    assert (idle.credits_micro, idle.rate, idle.renews) == (0, None, False)
    assert list(book.tiers) == ["gold", "idle"]


def test_an_empty_document_has_the_defaults() -> None:
    book = read({})
    assert (book.increment, book.margin) == (100_000, Decimal("1.5"))
    assert book.usd_per_credit == Decimal("0.01")
    assert (book.models, book.providers, book.tiers) == ({}, {}, DEFAULT_TIERS)
    assert book == Book(1, START, {}, {})
    assert read({"tiers": {}}).tiers == {}  # written, so it is meant


def test_the_default_models_are_a_part_of_a_document() -> None:
    book = read(json.loads(json.dumps({"models": DEFAULT_MODELS})))
    assert set(book.models) == set(DEFAULT_MODELS)
    assert all(book.is_active(None, name) for name in DEFAULT_MODELS)


@pytest.mark.parametrize(
    ("document", "wrong", "right"),
    [
        ({"model": {}}, "model", "models"),
        ({"incremnt": 0.1}, "incremnt", "increment"),
        ({"vendor": {"usd_per_credits": 1}}, "usd_per_credits", "usd_per_credit"),
        ({"providers": {"openai": {"activ": True}}}, "activ", "active"),
        ({"models": {"m": {**PER_1K, "credit": 1}}}, "credit", "credits"),
        ({"models": {"m": {**VENDOR, "marjin": 1}}}, "marjin", "margin"),
        ({"tiers": {"gold": {"credits": 1, "call": 1}}}, "call", "calls"),
        ({"phases": {"nlp": {"per": "item", "credit": 1}}}, "credit", "credits"),
    ],
    ids=str,
)
def test_a_misspelt_key_gets_the_right_one(document: Any, wrong: str, right: str) -> None:
    with pytest.raises(InvalidBook, match=f"unknown key '{wrong}'; did you mean '{right}'"):
        read(document)


def test_a_key_that_is_like_no_other_gets_the_list() -> None:
    with pytest.raises(InvalidBook, match=r"unknown key 'zzz' \(known: pipelines, phases, vendor"):
        read({"zzz": 1})


@pytest.mark.parametrize("document", [None, [], "x", {1: {}}, {"": {}}], ids=str)
def test_a_document_is_a_table(document: Any) -> None:
    with pytest.raises(InvalidBook, match="the price book"):
        read(document)


@pytest.mark.parametrize("name", ["phases", "pipelines", "vendor", "providers", "models", "tiers"])
@pytest.mark.parametrize("content", [None, 1, ["a"], "a"], ids=str)
def test_a_section_is_a_table(name: str, content: object) -> None:
    with pytest.raises(InvalidBook, match=rf"\[{name}\] must be a table of names"):
        read({name: content})


@pytest.mark.parametrize(
    "model",
    [
        None,
        1,
        [],
        {},
        {"kind": "free"},
        {"kind": None},
        {"kind": ["vendor"]},
        {"kind": "vendor"},
        {"kind": "vendor", "input_usd_per_1k": 1},
        {**VENDOR, "credits": 1},
        {"kind": "credits_per_1k"},
        {**PER_1K, "margin": 2},
        {**PER_1K, "credits": -1},
        {**PER_1K, "credits": 10**9},
        {**PER_1K, "credits": 0.0000001},
        {**PER_1K, "output_usd_per_1k": 1},
        {"kind": "tier_rate", "credits": 1},
        {"kind": "tier_rate", "input_usd_per_1k": 1},
        {**PER_1K, "active": 1},
        {**PER_1K, "active": None},
        {**VENDOR, "margin": 0},
        {**VENDOR, "margin": 1000.1},
        {**VENDOR, "input_usd_per_1k": 7 * 10**6},  # x 1.5 / 0.01 is above 10^9 credits
    ],
    ids=short,
)
def test_a_model_needs_what_its_kind_needs(model: object) -> None:
    with pytest.raises(InvalidBook, match="model 'a/m'"):
        read({"models": {"a/m": model}})


@pytest.mark.parametrize("name", ["/m", "a/", "/"])
def test_a_model_has_a_name(name: str) -> None:
    with pytest.raises(InvalidBook, match="provider/model"):
        read({"models": {name: PER_1K}})


@pytest.mark.parametrize("number", NOT_NUMBERS, ids=short)
@pytest.mark.parametrize("key", ["input_usd_per_1k", "output_usd_per_1k", "margin"])
def test_a_price_in_dollars_is_an_exact_number(key: str, number: object) -> None:
    with pytest.raises(InvalidBook, match=f"model 'm': {key}"):
        read({"models": {"m": {**VENDOR, key: number}}})


@pytest.mark.parametrize("number", [*NOT_NUMBERS, 0, -0.0], ids=short)
@pytest.mark.parametrize("key", ["margin", "usd_per_credit"])
def test_the_terms_are_exact_numbers_above_zero(key: str, number: object) -> None:
    with pytest.raises(InvalidBook, match=rf"\[vendor\] {key}"):
        read({"vendor": {key: number}})


def test_a_margin_is_at_most_1000() -> None:
    assert read({"vendor": {"margin": 1000}}).margin == 1000
    with pytest.raises(InvalidBook, match="at most 1,000"):
        read({"vendor": {"margin": 1000.5}})


@pytest.mark.parametrize("number", NOT_NUMBERS, ids=short)
@pytest.mark.parametrize("key", ["credits", "calls", "rate"])
def test_a_tier_has_numbers(key: str, number: object) -> None:
    with pytest.raises(InvalidBook, match=f"tier 'gold': {key}"):
        read({"tiers": {"gold": {"credits": 1, key: number}}})


@pytest.mark.parametrize(
    "tier", [None, 1, {}, {"calls": 1}, {"credits": 1, "calls": 1.5}, {"credits": 1, "renews": 1}]
)
def test_a_tier_says_what_it_includes(tier: object) -> None:
    with pytest.raises(InvalidBook, match="tier 'gold'"):
        read({"tiers": {"gold": tier}})


@pytest.mark.parametrize("provider", [None, True, {"active": "no"}, {"active": None}], ids=str)
def test_a_provider_is_active_or_not(provider: object) -> None:
    with pytest.raises(InvalidBook, match="provider 'openai'"):
        read({"providers": {"openai": provider}})


def test_a_provider_is_no_model() -> None:
    with pytest.raises(InvalidBook, match="has no '/'"):
        read({"providers": {"openai/gpt-4": {"active": False}}})


# The increment.


@pytest.mark.parametrize(
    ("number", "micro"),
    [(0.01, 10_000), (0.1, 100_000), (1.0, 1_000_000), (1, 1_000_000), (Decimal("0.10"), 100_000)],
)
def test_an_increment_is_one_of_three_numbers(number: object, micro: int) -> None:
    assert parse_increment(number) == micro
    assert read({"increment": number}).increment == micro


@pytest.mark.parametrize(
    "number",
    [0.05, "0.1", None, True, False, 0, -1, 10, 0.001, 0.1 + 1e-12, [], *NOT_NUMBERS],
    ids=short,
)
def test_any_other_increment_is_refused_with_the_allowed_ones(number: object) -> None:
    with pytest.raises(InvalidIncrement, match=r"0\.01, 0\.1, 1 "):
        parse_increment(number)
    with pytest.raises(InvalidIncrement):
        read({"increment": number})


@pytest.mark.parametrize("micro", sorted(INCREMENTS))
def test_another_increment_leaves_the_rest_of_the_document(micro: int) -> None:
    document = {"models": DEFAULT_MODELS, "increment": 0.1}
    changed = json.loads(json.dumps(with_increment(document, micro)))
    assert read(changed).increment == micro
    assert {**changed, "increment": 0.1} == document
    assert document["increment"] == 0.1


@given(st.integers(-(10**7), 10**7).filter(lambda micro: micro not in INCREMENTS))
def test_no_other_increment_gets_into_a_document(micro: int) -> None:
    with pytest.raises(InvalidIncrement):
        with_increment({}, micro)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["vendor", "models", "tiers", "kind", "credits", "rate", "active", "m"]
                ),
                inner,
                max_size=4,
            )
        ),
    )
)
def test_nothing_that_json_can_carry_breaks_the_reader(document: Any) -> None:
    try:
        assert isinstance(read(document), Book)
    except InvalidBook as error:
        assert str(error)
