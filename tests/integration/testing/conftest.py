"""The kit's own fixtures, on the servers that this suite runs anyway."""

from __future__ import annotations

import pytest
from tests.helpers.servers import Stack

from faregate.testing.backends import Embedded
from faregate.testing.kit import Kit
from faregate.testing.ledgers import Ledger
from faregate.testing.places import Place
from faregate.testing.servers import Servers


@pytest.fixture(scope="session")
def faregate_servers(stack: Stack) -> Servers:
    """Give the suite's servers; other tests use them too."""
    place = Place(stack.kafka, stack.database, stack.kafka, stack.database)
    return Servers(Embedded(), place, shared=True)


@pytest.fixture
def ledger(faregate: Kit) -> Ledger:
    """The kit's, not the one of tests of the store."""
    return faregate.ledger
