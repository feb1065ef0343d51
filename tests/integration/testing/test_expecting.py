"""What is expected is found, what is not is explained, and a late event is not missed."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from faregate.events import CreditsDeductedV1, PipelineInitiatedV1, UserRegisteredV1
from faregate.testing.batches import Usage
from faregate.testing.chaos import Chaos
from faregate.testing.crediting import Batches, Credits, NotFunded
from faregate.testing.expecting import EventMissing, EventUnexpected
from faregate.testing.kit import Kit
from faregate.testing.ledgers import Ledger, NotConserved
from faregate.testing.progress import NotProcessed
from faregate.testing.publishing import Publish

pytestmark = pytest.mark.stack


async def test_an_event_that_came_before_the_expectation_is_found(
    batch: Batches, publish: Publish, faregate: Kit
) -> None:
    given = await batch()
    request = given.requested()
    await publish(request)
    await faregate.ledger.settled()
    found = await faregate.expect.event(PipelineInitiatedV1, pipeline_id=request.pipeline_id)
    assert (found.payer, found.reserved_credits) == (given.org, 45)


async def test_copies_are_charged_once_and_each_event_is_returned_once(
    batch: Batches, publish: Publish, usage: Usage, expect_event: Any, expect_no_event: Any
) -> None:
    given = await batch(guest=True)
    sent = await publish(usage(given, units=3), duplicates=4)
    assert len(sent.records) == 5
    await publish(usage.tokens(given, input_tokens=10, output_tokens=10))
    first = await expect_event("CreditsDeductedV1", account=given.user)
    second = await expect_event("CreditsDeductedV1", account=given.user)
    assert {first.amount, second.amount} == {-3, -0.1}
    await expect_no_event("CreditsDeductedV1", account=given.user)


async def test_a_time_out_tells_what_came_instead_the_lag_and_the_ledger(
    batch: Batches, publish: Publish, usage: Usage, faregate: Kit
) -> None:
    given = await batch()
    good = usage(given, units=4)
    sent = await publish(good)
    await publish(good.model_copy(update={"units": 5}), id_=sent.event.id)
    await faregate.ledger.settled()
    with pytest.raises(EventMissing) as caught:
        await faregate.expect.event(
            CreditsDeductedV1, within_s=0.1, account=given.org, amount=-5, units=lambda n: n > 4
        )
    said = str(caught.value)
    assert "CreditsDeductedV1 " in said
    assert "amount is -4, not -5; units is 4, which <lambda> refuses" in said
    assert "dead letter on usage.recorded.dlq: UsageRecordedV1: idempotency_conflict" in said
    assert "deduction 0" in said
    assert f"{given.org} #2 usage -4 → balance 9996, held 0, debt 0" in said


async def test_a_word_that_no_event_has_is_an_error_at_once(faregate: Kit) -> None:
    with pytest.raises(ValueError, match="no event type"):
        await faregate.expect.event("PipelineDenied")
    with pytest.raises(ValueError, match="has no reasn"):
        await faregate.expect.event("PipelineDeniedV1", reasn="insufficient_credits")


async def test_an_event_that_comes_late_but_before_the_marker_is_not_missed(
    batch: Batches, publish: Publish, usage: Usage, chaos: Chaos, expect_no_event: Any
) -> None:
    given = await batch()
    for late in ("deduction", "relay"):  # not decided yet; decided, but not announced yet
        await chaos.pause(late)
        sent = await publish(usage(given))
        looking = asyncio.create_task(expect_no_event(CreditsDeductedV1, after=sent))
        await asyncio.sleep(1)
        assert not looking.done(), "nothing is known yet"
        await chaos.resume(late)
        with pytest.raises(EventUnexpected, match="CreditsDeductedV1"):
            await looking

    await chaos.kill("deduction")
    unread = await publish(usage(given))
    with pytest.raises(NotProcessed, match="deduction 1"):  # which is no proof of anything
        await expect_no_event(CreditsDeductedV1, after=unread, within_s=1)


async def test_one_account_that_cannot_be_funded_is_a_warning_and_the_other_is_funded(
    batch: Batches,
    publish: Publish,
    credits: Credits,
    ledger: Ledger,
    expect_event: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    given = await batch()
    await publish(given.requested())
    await expect_event("CreditsHeldV1", account=given.org)
    caplog.set_level("INFO", "faregate.testing")
    with pytest.warns(NotFunded, match=r"org:.* was not funded: .* It keeps what it had") as caught:
        done = await credits.provision(org=given.org_id, user=given.user_id, amount=10)
    assert f"Funded: {given.user} has 10" in str(caught[0].message)
    assert (list(done.funded), list(done.failed)) == ([given.user], [given.org])
    assert (await ledger.balance(given.user)).balance == 10
    assert (await ledger.balance(str(given.org))).balance == 10_000
    assert f"{given.user} was funded: it has 10 credits" in caplog.messages


@pytest.mark.provision_credits(False)
async def test_nobody_is_funded_where_that_is_marked(
    batch: Batches, publish: Publish, expect_event: Any
) -> None:
    given = await batch()
    await publish(given.requested())
    denied = await expect_event("PipelineDeniedV1", user_id=given.user_id)
    assert (denied.status, denied.reason) == (402, "insufficient_credits")


@pytest.mark.parametrize("provision_credits", [True, False])
async def test_whether_to_fund_can_be_a_parameter(
    batch: Batches, ledger: Ledger, provision_credits: bool
) -> None:
    given = await batch()
    assert bool((await ledger.balance(given.user)).balance) is provision_credits


@pytest.mark.faregate(provisioning="auto", welcome_credits=7)
async def test_settings_of_a_marker_are_those_of_the_processes(
    publish: Publish, ledger: Ledger, expect_event: Any
) -> None:
    await publish(UserRegisteredV1(user_id="ana"))
    await expect_event("CreditsGrantedV1", account="user:ana", amount=7)
    assert (await ledger.balance("user:ana")).balance == 7


@pytest.mark.faregate(isolated=True)
async def test_a_changed_row_is_not_conserved(
    batch: Batches, ledger: Ledger, faregate: Kit
) -> None:
    given = await batch()
    await ledger.assert_conserved()
    owner = await asyncpg.connect(faregate.installation.database)
    await owner.execute("UPDATE accounts SET balance = balance + 1 WHERE balance > 0")
    await owner.close()
    with pytest.raises(NotConserved, match=rf"{given.org}: balance 10000.000001, its entries"):
        await ledger.assert_conserved()
