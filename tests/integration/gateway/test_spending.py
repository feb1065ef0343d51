"""Check, calculate, deduct, balances: what is right, and what is refused and how that is said."""

from __future__ import annotations

from typing import Any

import pytest
from tests.integration.gateway.calling import Town

pytestmark = pytest.mark.stack


async def test_an_admin_allocates_and_the_user_sees_checks_and_runs_out(here: Town) -> None:
    admin, ada = await here.admin(), await here.person()
    given = await admin.post(
        "/api/credits/allocate",
        {"userId": ada.user_id, "credits": 100, "expiryDays": 30, "notes": "Welcome, Ada"},
    )
    assert given.status == 201
    assert isinstance(given["id"], int)
    assert (given["userId"], given["totalCredits"], given["remainingCredits"]) == (
        ada.user_id,
        100,
        100,
    )
    assert (given["allocatedBy"], given["notes"]) == (admin.user_id, "Welcome, Ada")
    assert given["expiresAt"] > given["allocatedAt"]

    seen = await ada.get("/api/credits/balance")
    assert (seen["userId"], seen["totalCredits"]) == (ada.user_id, 100)
    assert seen["activeAllocations"] == [given.json]
    for name in ("credits", "requiredCredits"):
        enough = await ada.post("/api/credits/check", {name: 100})
        assert enough.json == {"sufficient": True, "message": "Sufficient credits"}
        more = await ada.post("/api/credits/check", {name: 100.000001})
        assert more.json == {"sufficient": False, "message": "Insufficient credits"}
    both = await ada.post("/api/credits/check", {"credits": 50, "requiredCredits": 500})
    assert both["sufficient"]
    assert await here.balance(ada) == 100, "checking takes nothing"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"credits": 0},
        {"credits": -5},
        {"credits": "100"},
        {"credits": True},
        {"credits": [1]},
        {"requiredCredits": 0},
        {"requiredCredits": "5"},
        {"credits": None},
        {"credits": 0.0000001},
        {"credits": 1e9},
    ],
    ids=str,
)
async def test_a_check_of_no_valid_amount_is_refused(here: Town, body: dict[str, Any]) -> None:
    ada = await here.rich(100)
    refused = await ada.post("/api/credits/check", body)
    assert refused.problem == (400, "validation_failed")
    assert refused["detail"] == "Valid credits amount required"


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        (b'{"credits": "100", "reference": "r"}', "credits"),
        (b'{"credits": 0, "reference": "r"}', "credits"),
        (b'{"credits": -1, "reference": "r"}', "credits"),
        (b'{"credits": true, "reference": "r"}', "credits"),
        (b'{"credits": 1.0000001, "reference": "r"}', "credits"),
        (b'{"credits": 1000000000, "reference": "r"}', "credits"),
        (b'{"credits": 1e400, "reference": "r"}', "credits"),
        (b'{"credits": 1e-400, "reference": "r"}', "credits"),
        (b'{"credits": NaN, "reference": "r"}', "body"),
        (b'{"credits": Infinity, "reference": "r"}', "body"),
        (b'{"reference": "r"}', "credits"),
        (b'{"credits": 1, "model": "gpt-4", "tokens": 1}', "credits"),
        (b'{"model": "gpt-4"}', "tokens"),
        (b'{"model": "gpt-4", "tokens": -1}', "tokens"),
        (b'{"model": "gpt-4", "tokens": 1.5}', "tokens"),
        (b'{"model": "gpt-4", "tokens": 1, "output_tokens": 1}', "tokens"),
        (b'{"model": "", "tokens": 1}', "model"),
        (b'{"credits": 1, "reference": "\\u0000"}', "reference"),
        (b'{"credits": 1, "reference": "\\ud800"}', "reference"),
        (b"[]", "body"),
        (b"null", "body"),
        (b"{", "body"),
        (b"", "body"),
    ],
    ids=repr,
)
async def test_a_deduction_that_is_not_valid_names_the_field(
    here: Town, raw: bytes, field: str
) -> None:
    ada = await here.rich(100)
    refused = await ada.post("/api/v1/credits/deduct", raw=raw)
    assert refused.problem == (400, "validation_failed")
    assert [e["field"] for e in refused["errors"]] == [field]
    assert await here.balance(ada) == 100


async def test_amounts_are_exact_to_the_sixth_decimal(here: Town) -> None:
    ada = await here.rich(1)
    for _ in range(3):
        assert (await ada.post("/api/v1/credits/deduct", {"credits": 0.1})).status == 200
    assert await here.balance(ada) == 0.7
    last = await ada.post("/api/v1/credits/deduct", raw=b'{"credits": 0.699999}')
    assert last["balance"] == 0.000001


async def test_what_is_not_covered_takes_nothing_and_says_what_would_help(here: Town) -> None:
    ada = await here.rich(10)
    refused = await ada.post("/api/v1/credits/deduct", {"credits": 10.5, "reference": "r"})
    assert refused.problem == (402, "insufficient_credits")
    assert (refused["required_credits"], refused["available_credits"]) == (10.5, 10)
    assert "10.5 credits are required" in refused["detail"]
    assert "Buy credits" in refused["help"]
    assert await here.balance(ada) == 10


async def test_a_model_without_a_price_is_never_free(here: Town) -> None:
    ada = await here.rich(10)
    for path in ("calculate", "deduct"):
        refused = await ada.post(f"/api/v1/credits/{path}", {"model": "gpt-99", "tokens": 5})
        assert refused.problem == (422, "unknown_price")


async def test_a_price_says_what_the_provider_takes(here: Town) -> None:
    ada = await here.person()
    said = await ada.post(
        "/api/v1/credits/calculate",
        {"model": "gpt-4o-mini", "input_tokens": 1000, "output_tokens": 1000},
    )
    assert said.json == {
        "credits": 0.2,
        "vendor_cost_usd": 0.00075,
        "price_version": 1,
        "increment": 0.1,
    }


async def test_pool_orgs_pay_or_else_the_user_does_and_never_both(here: Town) -> None:
    admin, boss = await here.admin(), await here.rich(50)
    org = await here.org(boss, 20)
    assert (await admin.put(f"/v1/admin/orgs/{org}/policy", {"policy": "pool"})).status == 200
    assert (await admin.get(f"/v1/admin/orgs/{org}/policy"))["policy"] == "pool"
    paid = await boss.post("/api/v1/credits/deduct", {"credits": 15, "reference": "1"})
    assert (paid["payer"], paid["balance"]) == (f"org:{org}", 5)
    paid = await boss.post("/api/v1/credits/deduct", {"credits": 45, "reference": "2"})
    assert (paid["payer"], paid["balance"]) == (f"user:{boss.user_id}", 5)
    refused = await boss.post("/api/v1/credits/deduct", {"credits": 9, "reference": "3"})
    assert refused.problem == (402, "insufficient_credits")


async def test_transactions_come_in_pages_and_periods(here: Town) -> None:
    ada = await here.rich(100)
    for n in range(5):
        await ada.post("/api/v1/credits/deduct", {"credits": 1, "reference": f"r{n}"})
    path = "/api/v1/credits/transactions?limit=2"
    seen: list[str | None] = []
    cursor: str | None = ""
    while cursor is not None:
        page = await ada.get(path + cursor)
        seen += [t["reference"] for t in page["transactions"]]
        cursor = f"&cursor={page['next_cursor']}" if page["next_cursor"] else None
    assert seen == ["r4", "r3", "r2", "r1", "r0", None]
    newest = (await ada.get(path))["transactions"][0]["created_at"]
    since = await ada.get(
        "/api/v1/credits/transactions",
    )
    assert len(since["transactions"]) == 6
    from_newest = await ada.call(
        "GET", f"/api/v1/credits/transactions?from={newest.replace('+', '%2B')}"
    )
    assert len(from_newest["transactions"]) == 1
    for query in ("limit=0", "limit=201", "limit=x", "cursor=0", "from=yesterday", "to=2025"):
        refused = await ada.get(f"/api/v1/credits/transactions?{query}")
        assert refused.problem == (400, "validation_failed"), query
        assert refused["errors"][0]["field"] == query.partition("=")[0]
