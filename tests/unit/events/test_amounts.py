"""Amounts: exact both ways, and refused with advice when they cannot be."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faregate.events.amounts import (
    LIMIT_MICRO,
    MICRO,
    format_credits,
    parse_credits,
    parse_signed_credits,
    to_credits,
)

micro_amounts = st.integers(min_value=1, max_value=LIMIT_MICRO - 1)


@given(micro_amounts)
def test_every_amount_survives_the_way_out_and_back(micro: int) -> None:
    assert parse_credits(to_credits(micro)) == micro
    assert parse_credits(Decimal(micro) / MICRO) == micro
    assert parse_signed_credits(to_credits(-micro)) == -micro


@given(st.floats(min_value=0, max_value=999_999_999, exclude_min=True))
def test_a_float_counts_only_when_its_shortest_form_has_six_decimals(value: float) -> None:
    exact = Decimal(repr(value)) * MICRO
    if exact == exact.to_integral_value():
        assert parse_credits(value) == int(exact)
    else:
        with pytest.raises(ValueError, match="at most 6 decimals"):
            parse_credits(value)


@given(micro_amounts)
def test_the_text_for_people_says_the_same_amount(micro: int) -> None:
    assert Decimal(format_credits(micro).replace(",", "")) * MICRO == micro


@given(st.integers(min_value=-LIMIT_MICRO, max_value=LIMIT_MICRO))
def test_a_whole_amount_is_an_int_and_no_other(micro: int) -> None:
    number = to_credits(micro)
    assert isinstance(number, int) == (micro % MICRO == 0)


@pytest.mark.parametrize(
    ("value", "micro"),
    [
        (45, 45_000_000),
        (0.1, 100_000),
        (1e-6, 1),
        (999_999_999.999999, LIMIT_MICRO - 1),
        (Decimal("12.50"), 12_500_000),
        (Decimal("1.0000000"), 1_000_000),
        (Decimal("5E-6"), 5),
    ],
)
def test_valid_amounts(value: Any, micro: int) -> None:
    assert parse_credits(value) == micro


@pytest.mark.parametrize(
    ("value", "advice"),
    [
        (True, "must be a number"),
        (False, "must be a number"),
        ("1", "must be a number"),
        (b"1", "must be a number"),
        (None, "not null"),
        ([1], "must be a number"),
        (1 + 0j, "must be a number"),
        (float("nan"), "finite"),
        (float("inf"), "finite"),
        (-1e400, "finite"),
        (Decimal("NaN"), "finite"),
        (Decimal("sNaN"), "finite"),
        (Decimal("-Infinity"), "finite"),
        (0, "more than 0"),
        (-0.0, "more than 0"),
        (Decimal("0E-999999"), "more than 0"),
        (-1, "more than 0"),
        (10**9, "below 1,000,000,000"),
        (1e9, "below 1,000,000,000"),
        (2**63, "below 1,000,000,000"),
        (Decimal("1E999999999"), "below 1,000,000,000"),
        (1e-7, "at most 6 decimals"),
        (0.1234567, "at most 6 decimals"),
        (0.1 + 0.2, "at most 6 decimals"),
        (Decimal("1E-999999999"), "at most 6 decimals"),
        (Decimal("0.00000149"), "at most 6 decimals"),
    ],
)
def test_what_is_no_amount_is_refused_with_advice(value: Any, advice: str) -> None:
    with pytest.raises(ValueError, match=advice):
        parse_credits(value)
    if advice != "more than 0":
        with pytest.raises(ValueError, match=advice):
            parse_signed_credits(value)


def test_zero_is_an_amount_only_where_it_is_asked_for() -> None:
    assert parse_credits(0, allow_zero=True) == 0
    assert parse_credits(-0.0, allow_zero=True) == 0
    with pytest.raises(ValueError, match="0 or more"):
        parse_credits(-1, allow_zero=True)


@pytest.mark.parametrize(
    ("micro", "text"),
    [
        (0, "0"),
        (10_000 * MICRO, "10,000"),
        (100_000, "0.1"),
        (-2_500_000, "-2.5"),
        (1, "0.000001"),
        (LIMIT_MICRO - 1, "999,999,999.999999"),
    ],
)
def test_text_for_people(micro: int, text: str) -> None:
    assert format_credits(micro) == text
