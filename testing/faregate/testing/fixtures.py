"""The fixtures. All but the session's are made anew for each test.

The engine is imported where a test first asks for it, so that other suites do not wait for it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from faregate.testing.choosing import NoBackEnd
from faregate.testing.plugin import INSTALLATION, Asked, choose_once, run_directory

if TYPE_CHECKING:
    from faregate.testing.batches import Usage
    from faregate.testing.chaos import Chaos
    from faregate.testing.clocks import Clock
    from faregate.testing.crediting import Batches, Credits
    from faregate.testing.installation import Installation
    from faregate.testing.kit import Kit
    from faregate.testing.ledgers import Ledger
    from faregate.testing.prices import Prices
    from faregate.testing.publishing import Publish
    from faregate.testing.servers import Servers


@pytest.fixture(scope="session")
def faregate_servers(request: pytest.FixtureRequest) -> Iterator[Servers]:
    """Kafka and PostgreSQL; the workers of pytest-xdist share them."""
    from faregate.testing.servers import serving

    config = request.config
    chosen = choose_once(config)
    if isinstance(chosen, NoBackEnd):
        pytest.fail(str(chosen), pytrace=False)
    image, wheel = config.getoption("faregate_image"), config.getoption("faregate_wheel")
    with serving(chosen.name, run_directory(config), image=image, wheel=wheel) as servers:
        yield servers


@pytest.fixture(scope="session")
def faregate_stack(faregate_servers: Servers) -> Iterator[Installation]:
    """Kafka, PostgreSQL and Faregate at work, for all tests of this worker."""
    from faregate.testing.installation import installed

    here = faregate_servers
    with installed(here.runner, here.place, shared_servers=here.shared) as made:
        yield made


@pytest.fixture
def faregate_installation(request: pytest.FixtureRequest) -> Iterator[Installation]:
    """Give this test its installation: the worker's, or where the test needs it one of its own.

    A test has its own where it is marked `faregate(isolated=True)`, `faregate(own_servers=True)` or
    with any setting, and where it uses `clock`, `chaos` or `prices`.
    """
    from faregate.testing.servers import installed_alone

    told = Asked.by(request.node)
    if not (told.alone or {"clock", "chaos", "prices"} & set(request.fixturenames)):
        made: Installation = request.getfixturevalue("faregate_stack")
        request.node.stash[INSTALLATION] = made
        yield made
        return
    servers: Servers = request.getfixturevalue("faregate_servers")
    if told.own_servers and servers.runner.name == "external":
        pytest.fail("outside servers cannot be this test's own", pytrace=False)
    separate = "chaos" in request.fixturenames
    with installed_alone(
        servers, separate=separate, own_servers=told.own_servers, **told.settings
    ) as made:
        request.node.stash[INSTALLATION] = made
        yield made


@pytest_asyncio.fixture
async def faregate(faregate_installation: Installation) -> AsyncIterator[Kit]:
    """Everything below in one object, for those who like it better."""
    from faregate.testing.kit import connected

    async with connected(faregate_installation) as kit:
        yield kit


@pytest.fixture
def provision_credits(request: pytest.FixtureRequest) -> bool:
    """Whether `batch` funds who it is for: the marker of this name, or your own fixture, says."""
    marker = request.node.get_closest_marker("provision_credits")
    return bool(marker.args[0]) if marker is not None and marker.args else True


@pytest.fixture
def credits(faregate: Kit) -> Credits:  # noqa: A001 - the name that tests read best with
    """Give credits: `await credits.provision(org="acme", user="ana", amount=10_000)`."""
    return faregate.credits


@pytest.fixture
def batch(faregate: Kit, provision_credits: bool) -> Batches:
    """Set up batches that have credits.

    `await batch(items=10, org="acme")`
    """
    from faregate.testing.crediting import Batches

    return Batches(faregate.credits, provision=provision_credits)


@pytest.fixture
def publish(faregate: Kit) -> Publish:
    """Publish events.

    `await publish(event, duplicates=2)`
    """
    return faregate.publish


@pytest.fixture
def expect_event(faregate: Kit) -> Any:
    """Wait for events.

    `await expect_event("PipelineDeniedV1", within_s=5, reason=…)`
    """
    return faregate.expect.event


@pytest.fixture
def expect_no_event(faregate: Kit) -> Any:
    """Make sure that an event does not come.

    `await expect_no_event("PipelineDeniedV1", after=published)`
    """
    return faregate.expect.no_event


@pytest.fixture
def usage(faregate: Kit) -> Usage:
    """Make usage events: `usage(batch, units=45)`, `usage.tokens(batch, model=…)`."""
    return faregate.usage


@pytest.fixture
def ledger(faregate: Kit) -> Ledger:
    """Read the ledger: `await ledger.balance("org:acme")`, `await ledger.assert_conserved()`."""
    return faregate.ledger


@pytest.fixture
def clock(faregate: Kit) -> Clock:
    """Let time pass: `await clock.advance(days=31)`."""
    return faregate.clock


@pytest.fixture
def prices(faregate: Kit) -> Prices:
    """Set prices of one's own: `await prices.apply("tests/prices.toml")`."""
    return faregate.prices


@pytest.fixture
def chaos(faregate: Kit) -> Chaos:
    """Break things: `await chaos.kill("deduction")`."""
    from faregate.testing.chaos import Chaos

    return Chaos(faregate.installation)
