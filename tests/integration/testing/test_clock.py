"""Time of an installation under test moves for every process; elsewhere it cannot."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from tests.helpers.servers import Stack, drop_database, fresh_database
from tests.helpers.world import World

from faregate.runtime.processes import LedgerUnguarded
from faregate.testing.clocks import Clock
from faregate.testing.crediting import Batches, Credits
from faregate.testing.kit import Kit
from faregate.testing.ledgers import Ledger
from faregate.testing.publishing import Publish

pytestmark = pytest.mark.stack


async def test_grants_expire_holds_end_and_tiers_renew_as_time_passes(
    batch: Batches,
    credits: Credits,
    publish: Publish,
    clock: Clock,
    ledger: Ledger,
    expect_event: Any,
    faregate: Kit,
) -> None:
    given = await batch(guest=True, provision_credits=False)
    await credits.grant(given.user, 100, kind="bonus", expires_in=timedelta(days=40))
    await credits.tier("user:tia", "starter")
    request = given.requested()
    await publish(request)
    held = await expect_event("PipelineInitiatedV1", pipeline_id=request.pipeline_id)

    await clock.advance(hours=2)
    await expect_event("CreditsReleasedV1", account=given.user, hold_id=held.hold_id)

    await clock.advance(days=31)
    renewed = await expect_event("CreditsGrantedV1", account="user:tia", reason="renewal")
    assert renewed.amount == 20
    await expect_event("CreditsExpiredV1", account="user:tia", amount=-20)

    now = await clock.advance(days=9)
    await expect_event("CreditsExpiredV1", account=given.user, amount=-100)
    assert (await ledger.balance(given.user)).balance == 0

    assert now - datetime.now(UTC) > timedelta(days=40)
    late = faregate.usage(given, units=2)
    assert late.occurred_at > datetime.now(UTC) + timedelta(days=39)
    await publish(late)  # by the clock of the test it is now, so it is not refused
    await expect_event("DebtIncurredV1", account=given.user, debt=2)
    await ledger.assert_conserved()


async def test_time_only_goes_forward(faregate: Kit, clock: Clock) -> None:
    with pytest.raises(ValueError, match="only goes forward"):
        await clock.advance(days=-1)
    owner = await asyncpg.connect(faregate.installation.database)
    with pytest.raises(asyncpg.RaiseError, match="only goes forward"):
        await owner.execute("UPDATE test_clock SET ahead = '-1 day'")
    await owner.close()


async def test_a_process_refuses_a_database_whose_time_is_not_its_own(
    stack: Stack, here: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = await fresh_database(stack.database, clock=True)
    moved = World(here.kafka, url, here.prefix, here.pool, here.store)
    try:
        with pytest.raises(LedgerUnguarded, match="FAREGATE_TEST_CLOCK"):
            async with moved.running("relay"):
                pass
        monkeypatch.setenv("FAREGATE_TEST_CLOCK", "1")
        async with moved.running("relay"):
            pass
    finally:
        await drop_database(stack.database, url)


async def test_other_databases_have_no_such_clock(database_url: str) -> None:
    owner = await asyncpg.connect(database_url)
    assert await owner.fetchval("SELECT to_regclass('test_clock')") is None
    assert await owner.fetchval(
        "SELECT 'clock_timestamp()'::regprocedure = 'pg_catalog.clock_timestamp()'::regprocedure"
    )
    await owner.close()
    with pytest.raises(asyncpg.UndefinedTableError):
        await Clock(database_url).advance(days=1)
