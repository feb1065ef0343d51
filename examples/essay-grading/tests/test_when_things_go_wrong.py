"""The same service while processes die, records repeat and time passes."""

from datetime import timedelta

import pytest
from essay_grading import Denied, EssayGrading
from test_essay_grading import ESSAYS, PAIRS, named


@pytest.fixture
async def service(faregate):
    async with EssayGrading(faregate.kafka, prefix=faregate.prefix) as running:
        yield running


async def test_a_killed_deduction_charges_everything_once(service, batch, chaos, ledger):
    given = await batch(items=len(ESSAYS))
    await chaos.kill("deduction")

    await service.grade(ESSAYS, **named(given))

    await chaos.restart("deduction")
    await ledger.assert_conserved()
    assert (await ledger.balance(given.org)).balance == 10_000 - PAIRS


@pytest.mark.faregate(own_servers=True)  # with pytest-xdist, others use the servers too
async def test_restarted_servers_lose_nothing(batch, usage, publish, chaos, expect_event, ledger):
    given = await batch()
    await publish(usage(given, units=1))

    await chaos.restart("kafka")
    await publish(usage(given, units=2))
    await chaos.restart("postgres")
    await publish(usage(given, units=3))

    for amount in (-1, -2, -3):
        await expect_event("CreditsDeductedV1", within_s=60, account=given.org, amount=amount)
    await ledger.assert_conserved()


async def test_usage_that_is_sent_three_times_is_charged_once(
    batch, usage, publish, expect_event, expect_no_event
):
    given = await batch()

    sent = await publish(usage(given, units=3), duplicates=2)

    await expect_event("CreditsDeductedV1", account=given.org, amount=-3)
    await expect_no_event("CreditsDeductedV1", after=sent, account=given.org)


async def test_credits_that_have_expired_do_not_pay(service, batch, credits, clock):
    given = await batch(items=len(ESSAYS), guest=True, provision_credits=False)
    await credits.grant(given.user, 100, expires_in=timedelta(days=10))

    await clock.advance(days=11)

    with pytest.raises(Denied):
        await service.grade(ESSAYS, **named(given))
