"""Questions that arrive together share one query.

Nothing is remembered: a question that comes while a query is under way waits for the next one, so
no answer is older than its question.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from typing import Generic, TypeVar

Question = TypeVar("Question", bound=Hashable)
Answer = TypeVar("Answer")


class Together(Generic[Question, Answer]):
    """Asks by `ask`, which answers many questions at once."""

    def __init__(
        self, ask: Callable[[Sequence[Question]], Awaitable[Mapping[Question, Answer]]]
    ) -> None:
        self._ask = ask
        self._waiting: dict[Question, asyncio.Future[Answer]] = {}
        self._asking: asyncio.Task[None] | None = None

    async def of(self, question: Question) -> Answer:
        """Give the answer. Raises what `ask` raises."""
        found = self._waiting.get(question)
        if found is None:
            found = self._waiting[question] = asyncio.get_running_loop().create_future()
            if self._asking is None or self._asking.done():
                self._asking = asyncio.create_task(self._answer())
        return await asyncio.shield(found)

    async def _answer(self) -> None:
        await asyncio.sleep(0)  # those that are woken together ask together
        while self._waiting:
            waiting, self._waiting = self._waiting, {}
            try:
                answers = await self._ask(list(waiting))
            except Exception as error:  # noqa: BLE001 - whoever asked raises it
                for found in waiting.values():
                    found.set_exception(error)
            else:
                for question, found in waiting.items():
                    found.set_result(answers[question])
