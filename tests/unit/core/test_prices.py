"""Reading a price book: what is not certain is refused, with what to change."""

from typing import Any

import pytest
from tests.unit.core.twin import DEFAULT_BOOK, START

from faregate.ledger.core import InvalidBook, PhasePrice, parse_book

GOOD: dict[str, Any] = {"per": "item", "credits": 1}


def test_the_default_book_is_read_as_it_is_written() -> None:
    book = parse_book(1, START, DEFAULT_BOOK)
    assert book.pipelines["cj_assessment"] == ("spellcheck", "cj_assessment")
    assert book.phases["cj_assessment"] == PhasePrice("pair", 1_000_000)
    assert book.required(["spellcheck", "cj_assessment"], 10) == 45_000_000
    assert book.required(["spellcheck", "nlp"], 10) == 0


def test_a_price_of_zero_is_a_price_and_no_price_is_none() -> None:
    book = parse_book(1, START, DEFAULT_BOOK)
    assert book.cost("nlp", 10) == 0
    assert book.cost("magic", 10) is None
    assert book.cost(None, None) is None
    assert book.required(["nlp", "magic"], 10) is None


def test_an_empty_book_prices_nothing() -> None:
    assert parse_book(1, START, {}).required(["nlp"], 1) is None


@pytest.mark.parametrize(
    "phase",
    [
        1,
        {},
        {"per": "item"},
        {"credits": 1},
        {**GOOD, "currency": "EUR"},
        {**GOOD, "per": "page"},
        {**GOOD, "per": None},
        {**GOOD, "credits": -1},
        {**GOOD, "credits": "1"},
        {**GOOD, "credits": True},
        {**GOOD, "credits": None},
        {**GOOD, "credits": float("nan")},
        {**GOOD, "credits": float("inf")},
        {**GOOD, "credits": 0.0000001},
        {**GOOD, "credits": 10**9},
    ],
    ids=str,
)
def test_a_phase_needs_a_unit_and_an_amount(phase: object) -> None:
    with pytest.raises(InvalidBook, match="phase 'nlp'"):
        parse_book(1, START, {"phases": {"nlp": phase}})


@pytest.mark.parametrize(
    "phases", [[], "nlp", None, 1, [1], [""], ["nlp", "nlp"], {"nlp": 1}], ids=str
)
def test_a_pipeline_is_a_list_of_different_phases(phases: object) -> None:
    with pytest.raises(InvalidBook, match="pipeline 'x' must be a list"):
        parse_book(1, START, {"pipelines": {"x": phases}})


@pytest.mark.parametrize("name", ["pipelines", "phases"])
def test_a_section_is_a_table(name: str) -> None:
    with pytest.raises(InvalidBook, match="table of names"):
        parse_book(1, START, {name: ["nlp"]})


def test_a_misspelt_section_is_not_passed_over() -> None:
    with pytest.raises(InvalidBook, match="pipelnes"):
        parse_book(1, START, {"pipelnes": {}, "phases": {}})
