"""The service on real Kafka, PostgreSQL and Faregate, brought by `faregate[testing]`."""

import pytest
from essay_grading import Denied, EssayGrading

ESSAYS = [" ".join(f"word{n}" for n in range(size)) for size in range(1, 11)]
PAIRS = 45


@pytest.fixture
async def service(faregate):
    async with EssayGrading(faregate.kafka, prefix=faregate.prefix) as running:
        yield running


def named(batch):
    return {"batch_id": batch.batch_id, "user": batch.user_id, "org": batch.org_id}


async def test_a_batch_is_provisioned_by_default_and_its_org_pays(service, batch, ledger):
    given = await batch(items=len(ESSAYS))

    graded = await service.grade(ESSAYS, **named(given))

    assert graded.payer == given.org
    assert graded.reserved == PAIRS
    assert graded.ranking[0] == len(ESSAYS) - 1
    assert (await ledger.balance(given.user)).balance == 10_000


async def test_an_org_alone_is_enough(service, batch, credits, ledger):
    given = await batch(items=len(ESSAYS), provision_credits=False)
    await credits.provision(org=given.org_id, amount=100)

    graded = await service.grade(ESSAYS, **named(given))

    assert graded.payer == given.org
    assert (await ledger.balance(given.user)).balance == 0


async def test_a_user_alone_is_enough(service, batch, credits):
    given = await batch(items=len(ESSAYS), guest=True, provision_credits=False)
    await credits.provision(user=given.user_id, amount=100)

    graded = await service.grade(ESSAYS, **named(given))

    assert graded.payer == given.user


async def test_the_user_pays_what_the_org_cannot(service, batch, credits, ledger):
    given = await batch(items=len(ESSAYS), provision_credits=False)
    await credits.provision(org=given.org_id, amount=PAIRS - 1)
    await credits.provision(user=given.user_id, amount=PAIRS)

    graded = await service.grade(ESSAYS, **named(given))

    assert graded.payer == given.user
    await ledger.settled()
    assert (await ledger.balance(given.org)).balance == PAIRS - 1, "a cost is never split"
    assert (await ledger.balance(given.user)).balance == 0


@pytest.mark.provision_credits(False)
async def test_without_credits_it_is_denied_and_nothing_runs(
    service, batch, expect_event, expect_no_event
):
    given = await batch(items=len(ESSAYS))

    with pytest.raises(Denied) as caught:
        await service.grade(ESSAYS, **named(given))

    assert caught.value.denial.status == 402
    assert caught.value.denial.reason == "insufficient_credits"
    denied = await expect_event("PipelineDeniedV1", user_id=given.user_id)
    assert (denied.required_credits, denied.available_credits) == (PAIRS, 0)
    await expect_no_event("UsageRecordedV1", user_id=given.user_id)
    await expect_no_event("CreditsHeldV1", account=given.org)


async def test_what_nlp_has_done_is_not_paid_or_run_again(service, batch, expect_event):
    given = await batch(items=len(ESSAYS))

    free = await service.grade(ESSAYS, pipeline="nlp", **named(given))
    paid = await service.grade(ESSAYS, **named(given))

    assert (free.phases, free.reserved) == (["spellcheck", "nlp"], 0)
    assert (paid.phases, paid.pruned) == (["cj_assessment"], ["spellcheck"])
    await expect_event("PipelineInitiatedV1", pipeline_id=paid.pipeline_id, reserved_credits=PAIRS)


async def test_consumption_is_recorded_to_the_credit(service, batch, ledger, expect_event):
    given = await batch(items=len(ESSAYS))

    graded = await service.grade(ESSAYS, **named(given))

    last = f"{graded.pipeline_id}-{PAIRS}"
    await expect_event("CreditsDeductedV1", account=given.org, usage_id=last)
    await ledger.assert_conserved()
    used = await ledger.entries(given.org, kind="usage", pipeline_id=graded.pipeline_id)
    assert [entry["amount"] for entry in used] == [-1] * PAIRS
    after = await ledger.balance(given.org)
    assert (after.balance, after.held, after.debt) == (10_000 - PAIRS, 0, 0)
