"""Which routes are answered without FastAPI's machinery, and questions that share a query."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import pytest
from fastapi.routing import APIRoute

from faregate.gateway.app import RESOURCES
from faregate.gateway.express import prepared
from faregate.gateway.together import Together

HOT = {
    "/api/credits/check",
    "/api/v1/credits/balance",
    "/api/v1/credits/deduct",
    "/api/v1/holds",
    "/api/v1/holds/batch",
    "/api/v1/holds/{hold_id}/release",
    "/api/v1/holds/{hold_id}/settle",
    "/v1/chat/completions",
}


def routes() -> list[APIRoute]:
    every = [route for resource in RESOURCES for route in resource.router.routes]
    return [route for route in every if isinstance(route, APIRoute)]


def test_what_is_called_most_is_prepared() -> None:
    assert {route.path for route in routes() if prepared(route)} >= HOT


def test_what_takes_more_than_headers_a_path_and_a_body_is_not() -> None:
    odd = {route.path for route in routes() if not prepared(route)}
    assert {"/api/v1/settings/byok-keys/{provider}", "/api/v1/credits/transactions"} <= odd


class Library:
    """Answers after a while, and remembers what it was asked together."""

    def __init__(self) -> None:
        self.asked: list[Sequence[str]] = []
        self.version = 0

    async def look_up(self, words: Sequence[str]) -> Mapping[str, str]:
        self.asked.append(words)
        version = self.version
        await asyncio.sleep(0.01)
        if "bad" in words:
            raise ValueError("bad")
        return {word: f"{word} {version}" for word in words}


async def test_questions_that_arrive_together_share_a_query() -> None:
    library = Library()
    together = Together(library.look_up)
    assert await asyncio.gather(*map(together.of, ("a", "b", "a"))) == ["a 0", "b 0", "a 0"]
    assert library.asked == [["a", "b"]]


async def test_a_question_that_comes_late_is_not_given_an_old_answer() -> None:
    library = Library()
    together = Together(library.look_up)
    early = asyncio.create_task(together.of("a"))
    while not library.asked:
        await asyncio.sleep(0)
    library.version = 1
    assert await together.of("a") == "a 1"
    assert await early == "a 0"


async def test_who_asks_in_vain_is_told_and_the_next_is_answered() -> None:
    together = Together(Library().look_up)
    with pytest.raises(ValueError, match="bad"):
        await together.of("bad")
    assert await together.of("a") == "a 0"


async def test_who_leaves_takes_no_answer_from_others() -> None:
    together = Together(Library().look_up)
    leaving, staying = (asyncio.create_task(together.of("a")) for _ in range(2))
    await asyncio.sleep(0)
    leaving.cancel()
    assert await staying == "a 0"
