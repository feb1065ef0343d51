"""The flows that people know: somebody alone, an organization, and many at once."""

from __future__ import annotations

import asyncio

import pytest
from tests.integration.gateway.calling import Town

from faregate.ledger.verify import verify

pytestmark = pytest.mark.stack

CALL = {"model": "gpt-3.5-turbo", "tokens": 100}


async def test_somebody_with_ten_thousand_credits_makes_a_call_of_nine(here: Town) -> None:
    admin = await here.admin()
    ada = await here.person()
    tier = {"subject_type": "user", "subject_id": ada.user_id, "tier": "platform"}
    assert (await admin.post("/v1/admin/tiers", tier)).status == 200
    given = await admin.post("/api/credits/allocate", {"userId": ada.user_id, "credits": 10_000})
    assert (given.status, given["totalCredits"]) == (201, 10_000)
    assert await here.balance(ada) == 10_000

    priced = await ada.post("/api/v1/credits/calculate", CALL)
    assert (priced.status, priced["credits"]) == (200, 9)
    charged = await ada.post("/api/v1/credits/deduct", {**CALL, "reference": "call-1"})
    assert (charged.status, charged["credits"], charged["balance"]) == (200, 9, 9_991)
    assert await here.balance(ada) == 9_991

    usage = await ada.get("/api/v1/usage/current")
    assert usage["api_calls_used"] == 1
    assert usage["api_calls_limit"] == 10_000
    assert usage["remaining"] == 9_999
    assert usage["credits_used"] == 9
    history = await ada.get("/api/v1/usage/history")
    assert [p["api_calls_used"] for p in history["periods"]] == [1]

    newest, oldest = (await ada.get("/api/v1/credits/transactions"))["transactions"]
    assert (newest["id"], newest["amount"], newest["balance_after"]) == (
        charged["entry_id"],
        -9,
        9_991,
    )
    assert (newest["transaction_type"], newest["model"], newest["reference"]) == (
        "usage",
        "gpt-3.5-turbo",
        "call-1",
    )
    assert (oldest["transaction_type"], oldest["amount"]) == ("purchase", 10_000)


async def test_a_member_spends_what_the_organization_allocated_to_them(here: Town) -> None:
    boss = await here.person()
    org = await here.org(boss, 10_000)
    member = await here.member(boss, org, 2_500)
    charged = await member.post("/api/v1/credits/deduct", {**CALL, "reference": "call-1"})
    assert (charged.status, charged["credits"], charged["balance"]) == (200, 9, 9_991)
    assert charged["payer"] == f"org:{org}"

    place = f"/api/v1/credits/organization/{org}"
    mine = await member.get(f"{place}/my-allocation")
    assert mine.json == {"allocated": 2_500, "used": 9, "remaining": 2_491}
    account = await boss.get(place)
    assert account["total_credits"] == account["available_credits"] == 9_991
    assert account["allocated_credits"] == 2_491
    assert await here.balance(member) == 0

    for group in ("member", "model", "phase", "day", "member,model"):
        said = await boss.get(f"{place}/usage-attribution?group_by={group}")
        assert said["total"] == 9
        assert sum(row["credits"] for row in said["rows"]) == 9
    by_member = await boss.get(f"{place}/usage-attribution")
    assert by_member["rows"][0]["user_id"] == member.user_id
    assert (await member.get("/api/v1/usage/current"))["credits_used"] == 9


async def test_the_allocation_ends_before_the_organization_does(here: Town) -> None:
    boss = await here.person()
    org = await here.org(boss, 1_000)
    member = await here.member(boss, org, 10)
    refused = await member.post("/api/v1/credits/deduct", {"credits": 11, "reference": "r"})
    assert refused.problem == (402, "allocation_exhausted")
    assert (refused["required_credits"], refused["available_credits"]) == (11, 10)
    assert "admin" in refused["help"]
    without = await here.member(boss, org)
    refused = await without.post("/api/v1/credits/deduct", {"credits": 1, "reference": "r"})
    assert refused.problem == (403, "no_allocation")
    assert (await boss.get(f"/api/v1/credits/organization/{org}"))["total_credits"] == 1_000


async def test_an_organization_of_a_hundred_does_not_pay_a_hundred_and_fifty(here: Town) -> None:
    boss = await here.person()
    org = await here.org(boss, 100)
    member = await here.member(boss, org, 200)
    refused = await member.post("/api/v1/credits/deduct", {"credits": 150, "reference": "r"})
    assert refused.problem == (402, "insufficient_credits")
    assert (await boss.get(f"/api/v1/credits/organization/{org}"))["total_credits"] == 100
    assert (await member.get(f"/api/v1/credits/organization/{org}/my-allocation"))["used"] == 0


async def test_ten_times_a_hundred_at_once_take_a_thousand_and_nothing_more(here: Town) -> None:
    ada = await here.rich(1_000)
    body = {"credits": 100, "reference": "at-once"}
    calls = [ada.post("/api/v1/credits/deduct", body) for _ in range(15)]
    answers = await asyncio.gather(*calls)
    assert sorted(a.status for a in answers) == [200] * 10 + [402] * 5
    assert sorted(a["balance"] for a in answers if a.status == 200) == list(range(0, 1_000, 100))
    assert await here.balance(ada) == 0


async def test_past_the_quota_of_the_trial_calls_are_refused_until_it_begins_anew(
    welcoming: Town,
) -> None:
    ada = await welcoming.person()
    await welcoming.set_balance(f"user:{ada.user_id}", 100_000)
    usage = await ada.get("/api/v1/usage/current")
    assert (usage["api_calls_limit"], usage["remaining"]) == (700, 700)
    await asyncio.gather(
        *(ada.post("/api/v1/credits/deduct", {**CALL, "reference": str(n)}) for n in range(700))
    )
    refused = await ada.post("/api/v1/credits/deduct", {**CALL, "reference": "701"})
    assert refused.problem == (429, "quota_exceeded")
    assert 0 < int(refused.headers["retry-after"]) <= 30 * 86_400
    assert (await ada.get("/api/v1/usage/current"))["remaining"] == 0
    plain = await ada.post("/api/v1/credits/deduct", {"credits": 1, "reference": "no-call"})
    assert plain.status == 200


async def test_a_new_user_has_five_credits_and_a_known_one_no_more(welcoming: Town) -> None:
    made = await welcoming.nobody.post(
        "/auth/register",
        {"email": "new@example.com", "password": "long enough", "organization": "New & Co"},
    )
    assert (made.status, made["credits_remaining"]) == (201, 5)
    assert made["org_id"]
    again = await welcoming.nobody.post(
        "/auth/register", {"email": "NEW@example.com", "password": "long enough"}
    )
    assert again.problem == (409, "email_taken")


async def test_what_was_done_over_http_is_proved_by_verify(welcoming: Town) -> None:
    admin, boss = await welcoming.admin(), await welcoming.person()
    org = await welcoming.org(boss, 1_000)
    member = await welcoming.member(boss, org, 100)
    await member.post("/api/v1/credits/deduct", {**CALL, "reference": "named"}, key="k")
    charged = await member.post("/api/v1/credits/deduct", {"credits": 1, "reference": "named"})
    await admin.post("/v1/admin/refunds", {"entry_id": charged["entry_id"]})
    for final in (True, False):
        hold = await member.post("/api/v1/holds", {"credits": 20, "reference": "named"})
        place = f"/api/v1/holds/{hold['hold_id']}"
        settled = await member.post(f"{place}/settle", {"credits": 3, "final": final})
        assert settled.status == 200
        assert (await member.post(f"{place}/release")).status == 200
    reserved = {"op": "reserve", "model": "gpt-4", "max_tokens": 10, "reference": "named"}
    assert (await member.post("/api/v1/holds/batch", {"operations": [reserved] * 3})).status == 200
    await boss.post("/api/v1/credits/deduct", {"credits": 1_000_000, "reference": "too much"})
    report = await verify(welcoming.store.pool)
    assert report.ok, report.findings
