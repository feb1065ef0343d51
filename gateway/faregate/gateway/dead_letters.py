"""Dead letters, as the gateway needs them. Whoever knows Kafka gives them to it (the runtime)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol


class LetterNotFound(Exception):
    """There is no dead letter of that id; the message says what there is."""


class QueueUnavailable(Exception):
    """Kafka does not answer."""


@dataclass(frozen=True, slots=True)
class Page:
    """Dead letters, newest first; `cursor` is where the next page begins, None at the end."""

    letters: Sequence[dict[str, Any]]
    cursor: str | None


class DeadLetters(Protocol):
    """The dead letter queues. Letters have the members that `faregate dlq --json` gives them.

    All raise QueueUnavailable.
    """

    async def page(
        self, topic: str | None, error: str | None, limit: int, cursor: str | None
    ) -> Page:
        """Give a page of one topic's, or of all; `error` narrows. Raises ValueError: the cursor."""

    async def show(self, letter_id: str) -> dict[str, Any]:
        """Give one in full. Raises LetterNotFound."""

    async def replay(self, letter_id: str) -> dict[str, Any]:
        """Publish one again to the topic it came from. Raises LetterNotFound."""
