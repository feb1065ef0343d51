"""The ledger that examples begin with; and assertions of the twin say what differs."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

pytest.register_assert_rewrite("tests.unit.core.comparing", "tests.unit.core.twin")

if TYPE_CHECKING:
    from tests.unit.core.twin import Twin


@pytest.fixture
def twin() -> Twin:
    """An empty ledger with the default price book, in force for a long time."""
    from tests.unit.core.twin import DEFAULT_BOOK, Twin

    empty = Twin()
    empty.apply_prices(DEFAULT_BOOK, empty.now - timedelta(days=300))
    return empty
