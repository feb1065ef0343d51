"""`prices`: price books for one test, set by the same act as on the command line."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from faregate.ledger import pricing
from faregate.ledger.core.prices_document import without_shown
from faregate.ledger.store import Store
from faregate.testing.crediting import ACTOR

_FILES = (".toml", ".json")


class PricesShared(Exception):
    """Other tests go by the same prices; the message says how a test gets its own."""


class Prices:
    """Sets the prices of this test's installation."""

    def __init__(self, store: Store, *, alone: bool) -> None:
        """`alone`: whether no other test uses the installation."""
        self._store = store
        self._alone = alone

    async def apply(
        self, book: str | Path | Mapping[str, Any], *, effective_from: datetime | None = None
    ) -> int:
        """Make `book` the next version of the price book, and give the version's number.

        It is in force when this returns, or from `effective_from` on. `book` is a file (.toml or
        .json), the text of one, or what it holds. It is a whole book: nothing is merged with what
        was in force. Raises InvalidBook, ValueError, OSError, PricesShared.
        """
        if not self._alone:
            raise PricesShared(
                "other tests go by the prices of this installation: use the fixture `prices`, or "
                "mark this test with @pytest.mark.faregate(isolated=True)"
            )
        document = without_shown(_document(book))
        if not (document.get("phases") or document.get("models")):
            raise ValueError("the book has no phases and no models: nothing would have a price")
        done = await pricing.apply_prices(self._store, document, effective_from, by=ACTOR)
        return done.book.version

    async def book(self) -> dict[str, Any]:
        """Give the book in force with all its sections, to be changed and applied."""
        return without_shown(await pricing.prices(self._store) or {})


def _document(book: str | Path | Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(book, Mapping):
        return book
    text, what = str(book), "the text of a price book"
    if isinstance(book, Path) or ("\n" not in text and text.endswith(_FILES)):
        what, text = f"{book}", Path(book).read_text()
    try:
        document = json.loads(text) if text.lstrip().startswith("{") else tomllib.loads(text)
    except ValueError as error:
        raise ValueError(f"{what} is neither TOML nor JSON: {error}") from error
    return cast("Mapping[str, Any]", document)
