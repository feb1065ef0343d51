"""Faults are real: processes die where they are told to, and nothing is lost or doubled."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from faregate.testing.backends import CannotRestart
from faregate.testing.batches import Usage
from faregate.testing.chaos import Chaos
from faregate.testing.clocks import Clock, StillDue
from faregate.testing.crediting import Batches, Credits
from faregate.testing.ledgers import Ledger
from faregate.testing.publishing import Publish

pytestmark = [pytest.mark.stack, pytest.mark.faults]


async def test_crashes_before_and_after_a_commit_and_an_ack_charge_once(
    batch: Batches,
    credits: Credits,
    publish: Publish,
    usage: Usage,
    chaos: Chaos,
    clock: Clock,
    ledger: Ledger,
    expect_event: Any,
    expect_no_event: Any,
) -> None:
    with pytest.raises(ValueError, match="there is no process 'deductions'"):
        await chaos.kill("deductions")
    with pytest.raises(ValueError, match="there is no point 'commit'"):
        await chaos.crash_after("commit")  # type: ignore[arg-type]
    with pytest.raises(CannotRestart, match="own_servers=True"):  # other tests use it too
        await chaos.restart("kafka")

    given = await batch()
    await chaos.crash_after("db_decision")
    await publish(usage(given, units=1))
    await chaos.crashed("deduction")
    assert (await ledger.balance(str(given.org))).balance == 10_000, "it was not committed"

    await chaos.crash_after("db_commit")
    await chaos.crashed("deduction")
    assert (await ledger.balance(str(given.org))).balance == 9_999, "it was committed"

    relay = await chaos.crash_after("kafka_ack")
    await chaos.restart("deduction")
    await publish(usage(given, units=2))
    await chaos.crashed(relay)
    await chaos.restart(relay)
    await expect_event("CreditsDeductedV1", account=given.org, amount=-1)
    await expect_event("CreditsDeductedV1", account=given.org, amount=-2)
    await expect_no_event("CreditsDeductedV1", account=given.org)  # announced again is not again
    await ledger.assert_conserved()
    assert (await ledger.balance(str(given.org))).balance == 9_997

    await credits.grant(given.user, 1, expires_in=timedelta(days=1))
    await chaos.kill("sweeper")
    with pytest.raises(StillDue, match="0 holds, 1 accounts"):
        await clock.advance(days=2, within_s=0.5)
