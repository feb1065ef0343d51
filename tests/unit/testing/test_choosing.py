"""Which back end is chosen, and what is said where none can be."""

from __future__ import annotations

import pytest

from faregate.testing.choosing import Choice, NoBackEnd, choose

KAFKA = {"FAREGATE_KAFKA": "kafka:9092"}
BOTH = KAFKA | {"FAREGATE_DATABASE": "postgresql://host/db"}


def engine() -> str | None:
    return "28.1"


def none() -> str | None:
    return None


@pytest.mark.parametrize(
    ("wanted", "environment", "answers", "name"),
    [
        ("auto", BOTH, engine, "external"),
        ("auto", {}, engine, "testcontainers"),
        ("auto", {}, none, "embedded"),
        ("embedded", BOTH, engine, "embedded"),
        ("testcontainers", BOTH, engine, "testcontainers"),
        ("external", BOTH, engine, "external"),
    ],
)
def test_outside_urls_come_first_then_an_engine_then_the_embedded_stack(
    wanted: str, environment: dict[str, str], answers: object, name: str
) -> None:
    chosen = choose(wanted, environment, answers)  # type: ignore[arg-type]
    assert chosen.name == name
    assert chosen.why


def test_the_reason_names_the_engine() -> None:
    assert choose("auto", {}, engine) == Choice("testcontainers", "container engine 28.1 answers")


@pytest.mark.parametrize(
    ("wanted", "environment", "said"),
    [
        ("external", {}, "set FAREGATE_KAFKA and FAREGATE_DATABASE$"),
        ("external", KAFKA, "set FAREGATE_DATABASE too$"),
        ("auto", KAFKA, "set FAREGATE_DATABASE too"),
        ("testcontainers", BOTH, "no container engine answers"),
    ],
)
def test_what_cannot_be_had_is_refused_with_what_is_missing(
    wanted: str, environment: dict[str, str], said: str
) -> None:
    with pytest.raises(NoBackEnd, match=said):
        choose(wanted, environment, none)
