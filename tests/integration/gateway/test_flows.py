"""What a new user begins with, and the proof of what was done over HTTP.

The flows that people know are the product's own (`faregate report`): see tests/e2e/test_flows.py.
"""

from __future__ import annotations

import pytest
from tests.integration.gateway.calling import Town

from faregate.ledger.verify import verify

pytestmark = pytest.mark.stack

CALL = {"model": "gpt-3.5-turbo", "tokens": 100}


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
