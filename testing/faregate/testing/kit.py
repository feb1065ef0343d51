"""Everything that a test of a service says to Faregate, in one object: the fixture `faregate`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from faregate.events import Publisher
from faregate.ledger.database import make_pool
from faregate.ledger.store import open_store
from faregate.testing.batches import Usage
from faregate.testing.clocks import Clock
from faregate.testing.crediting import Credits
from faregate.testing.expecting import Expectations
from faregate.testing.hearing import Ear, listening
from faregate.testing.installation import Installation
from faregate.testing.ledgers import Ledger, last_entry
from faregate.testing.prices import Prices
from faregate.testing.progress import Progress
from faregate.testing.publishing import SOURCE, Publish


@dataclass(frozen=True, slots=True)
class Kit:
    """What the fixtures of the same names are."""

    installation: Installation
    ear: Ear
    credits: Credits
    publish: Publish
    expect: Expectations
    usage: Usage
    ledger: Ledger
    clock: Clock
    prices: Prices

    @property
    def kafka(self) -> str:
        """Where Kafka is: `host:port`."""
        return self.installation.kafka

    @property
    def prefix(self) -> str:
        """What every topic of this installation begins with."""
        return self.installation.prefix

    @property
    def environment(self) -> dict[str, str]:
        """FAREGATE_KAFKA and FAREGATE_TOPIC_PREFIX, for a service that runs as a process."""
        return self.installation.environment

    @property
    def database(self) -> str:
        """The URL of the installation's database, its owner's: not for a service under test."""
        return self.installation.database

    @property
    def operator_environment(self) -> dict[str, str]:
        """What the command `faregate` needs here: servers, prefix, and the settings in force."""
        return self.installation.operator_environment


@asynccontextmanager
async def connected(installation: Installation) -> AsyncIterator[Kit]:
    """Connect to an installation; everything that is said there from now on is heard."""
    pool = await make_pool(installation.database, name="testing", size=3)
    try:
        store = await open_store(pool, installation.rules)
        publisher = Publisher(installation.kafka, SOURCE, prefix=installation.prefix)
        async with listening(installation.cluster) as ear, publisher:
            progress = Progress(store, ear)
            ledger = Ledger(store, progress, await last_entry(store))
            clock = Clock(installation.database)
            yield Kit(
                installation,
                ear,
                Credits(store),
                Publish(publisher),
                Expectations(progress, ledger),
                Usage(clock.reads),
                ledger,
                clock,
                Prices(store, alone=installation.alone),
            )
    finally:
        pool.terminate()
