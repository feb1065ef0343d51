"""What platform admins do: balances, grants, refunds, tiers, prices, the increment, the audit log."""

from __future__ import annotations

from typing import Any

import pytest
from tests.integration.gateway.calling import Town, town

from faregate.ledger.verify import verify

pytestmark = pytest.mark.stack


def subject(of: str, name: str, **more: Any) -> dict[str, Any]:
    return {"subject_type": of, "subject_id": name, **more}


async def test_a_balance_is_set_and_never_below_what_is_held(here: Town) -> None:
    admin, ada = await here.admin(), await here.rich(10)
    done = await admin.post("/v1/admin/credits/set", subject("user", ada.user_id, balance=100))
    assert done.json == {
        "account": f"user:{ada.user_id}",
        "balance": 100,
        "held": 0,
        "available": 100,
        "debt": 0,
        "tier": "free",
    }
    await ada.post("/api/v1/holds", {"credits": 60})
    refused = await admin.post("/v1/admin/credits/set", subject("user", ada.user_id, balance=59))
    assert refused.problem == (409, "below_held")
    done = await admin.post("/v1/admin/credits/set", subject("user", ada.user_id, balance=60))
    assert (done["balance"], done["held"], done["available"]) == (60, 60, 0)
    new = await admin.post("/v1/admin/credits/set", subject("org", "first-seen", balance=0))
    assert (new.status, new["balance"]) == (200, 0)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (subject("team", "x", balance=1), "subject_type"),
        (subject("org", "", balance=1), "subject_id"),
        (subject("org", "x", balance=-1), "balance"),
        (subject("org", "x", balance="1"), "balance"),
        (subject("org", "x"), "balance"),
        (subject("org", "x", balance=1e9), "balance"),
    ],
    ids=str,
)
async def test_a_balance_that_is_not_valid_names_the_field(
    here: Town, body: dict[str, Any], field: str
) -> None:
    admin = await here.admin()
    refused = await admin.post("/v1/admin/credits/set", body)
    assert refused.problem == (400, "validation_failed")
    assert refused["errors"][0]["field"] == field


async def test_grants_burn_by_priority_and_are_listed(here: Town) -> None:
    admin, ada = await here.admin(), await here.person()
    first = await admin.post(
        "/v1/admin/grants", subject("user", ada.user_id, credits=10, notes="late")
    )
    assert (first.status, first["credits"], first["grant_number"]) == (201, 10, 1)
    await admin.post(
        "/v1/admin/grants", subject("user", ada.user_id, credits=5, kind="bonus", priority=1)
    )
    await ada.post("/api/v1/credits/deduct", {"credits": 6, "reference": "r"})
    listed = await admin.get(f"/v1/admin/grants?subject_type=user&subject_id={ada.user_id}")
    assert [(g["kind"], g["remaining"], g["state"]) for g in listed["grants"]] == [
        ("purchase", 9, "live"),
        ("bonus", 0, "spent"),
    ]
    past = await admin.post(
        "/v1/admin/grants",
        subject("user", ada.user_id, credits=1, expires_at="2020-01-01T00:00:00Z"),
    )
    assert past.problem == (400, "validation_failed")


async def test_a_wrong_grant_is_taken_back(here: Town) -> None:
    admin, ada = await here.admin(), await here.rich(100)
    wrong = await admin.post("/v1/admin/grants", subject("user", ada.user_id, credits=50))
    body = subject("user", ada.user_id, grant_number=wrong["grant_number"], reason="slip")
    for _ in range(2):
        done = await admin.post("/v1/admin/grants/revoke", body, key="k")
        assert (done.status, done["credits"], done["balance"]) == (200, 50, 100)
    gone = await admin.post("/v1/admin/grants/revoke", body)
    assert gone.problem == (409, "conflict")
    assert "Nothing of this grant is left" in gone["detail"]
    for field, value in (("reason", "a sentence"), ("grant_number", 0), ("subject_type", "group")):
        refused = await admin.post("/v1/admin/grants/revoke", {**body, field: value})
        assert refused.problem == (400, "validation_failed"), field
    assert (await ada.post("/v1/admin/grants/revoke", body)).problem == (403, "forbidden")


async def test_what_is_held_of_a_wrong_grant_is_taken_back_once_it_is_free(here: Town) -> None:
    admin, ada = await here.admin(), await here.rich(100)
    wrong = await admin.post(
        "/v1/admin/grants", subject("user", ada.user_id, credits=50, priority=1)
    )
    hold = (await ada.post("/api/v1/holds", {"credits": 20}))["hold_id"]
    body = subject("user", ada.user_id, grant_number=wrong["grant_number"])
    first = await admin.post("/v1/admin/grants/revoke", body)
    assert (first["credits"], first["grant_held"], first["balance"]) == (30, 20, 120)
    await ada.post(f"/api/v1/holds/{hold}/release")
    rest = await admin.post("/v1/admin/grants/revoke", body)
    assert (rest["credits"], rest["grant_held"], rest["balance"]) == (20, 0, 100)


async def test_a_charge_is_refunded_once(here: Town) -> None:
    admin, ada = await here.admin(), await here.rich(100)
    charged = await ada.post("/api/v1/credits/deduct", {"credits": 30, "reference": "r"})
    body = {"entry_id": charged["entry_id"], "reason": "double_charge"}
    done = await admin.post("/v1/admin/refunds", body)
    assert (done.status, done["credits"], done["repeated"]) == (201, 30, False)
    again = await admin.post("/v1/admin/refunds", body)
    assert (again.status, again["credits"], again["repeated"]) == (201, 30, True)
    assert await here.balance(ada) == 100
    assert (await admin.post("/v1/admin/refunds", {"entry_id": 1})).problem == (404, "not_found")
    for wrong in ({}, {"entry_id": 1, "usage_id": "u"}, {"entry_id": "1"}):
        assert (await admin.post("/v1/admin/refunds", wrong)).problem == (400, "validation_failed")


async def test_a_tier_brings_its_credits_and_its_quota(here: Town) -> None:
    admin, ada = await here.admin(), await here.person()
    done = await admin.post("/v1/admin/tiers", subject("user", ada.user_id, tier="professional"))
    assert (done.status, done["result"]) == (200, "changed")
    assert await here.balance(ada) == 60
    assert (await ada.get("/api/v1/usage/current"))["api_calls_limit"] == 10_000
    down = await admin.post("/v1/admin/tiers", subject("user", ada.user_id, tier="starter"))
    assert down["result"] == "scheduled"
    wrong = await admin.post("/v1/admin/tiers", subject("user", ada.user_id, tier="golden"))
    assert wrong.problem == (400, "validation_failed")
    assert "there are: " in wrong["detail"]
    tiers = await admin.get("/v1/admin/tiers")
    assert tiers["tiers"]["trial"]["calls"] == 700


async def test_what_expires_at_the_end_of_time_is_kept_and_proved(here: Town) -> None:
    admin, ada = await here.admin(), await here.person()
    for end in ("9999-12-31T23:59:59Z", "9999-12-31T23:59:59.999998Z", "9999-12-30T00:00:00Z"):
        done = await admin.post(
            "/v1/admin/grants", subject("user", ada.user_id, credits=5, expires_at=end)
        )
        assert done.status == 201
    never = "9999-12-31T23:59:59.999999Z"
    for path, body in (
        ("/v1/admin/grants", subject("user", ada.user_id, credits=5, expires_at=never)),
        ("/v1/admin/prices", {"book": {}, "effective_from": never}),
    ):
        assert (await admin.post(path, body)).problem == (400, "validation_failed")
    assert (await ada.post("/api/v1/credits/deduct", {"credits": 12})).status == 200
    assert await here.balance(ada) == 3
    assert (await verify(here.store.pool)).findings == []


async def test_grants_come_in_pages(here: Town) -> None:
    admin, ada = await here.admin(), await here.person()
    for n in range(1, 8):
        await admin.post("/v1/admin/grants", subject("user", ada.user_id, credits=n))
    path = f"/v1/admin/grants?subject_type=user&subject_id={ada.user_id}"
    seen, cursor = [], ""
    while True:
        page = await admin.get(f"{path}&limit=3{cursor}")
        seen += [g["amount"] for g in page["grants"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert seen == [1, 2, 3, 4, 5, 6, 7]
    assert len((await admin.get(path))["grants"]) == 7


async def test_the_increment_is_in_force_in_every_process_at_once(here: Town) -> None:
    admin, ada = await here.admin(), await here.person()
    path = "/admin/settings/credit-increment"
    said = await admin.get(path)
    assert (said["increment"], said["allowed"]) == (0.1, [0.01, 0.1, 1.0])
    call = {"model": "gpt-4o-mini", "input_tokens": 100, "output_tokens": 100}
    async with town(here.store) as other:
        for increment, cost in ((1.0, 1), (0.01, 0.02), (0.1, 0.1)):
            done = await admin.put(path, {"increment": increment})
            assert (done.status, done["increment"]) == (200, increment)
            assert done["updated_by"] == admin.user_id
            ada.http = other.http
            assert (await ada.post("/api/v1/credits/calculate", call))["credits"] == cost
    body: Any
    for body in ({}, *({"increment": w} for w in (0.5, 0, "0.1", True, None, 0.10001, 10))):
        refused = await admin.put(path, body)
        assert refused.problem == (400, "validation_failed")
        assert refused["allowed"] == [0.01, 0.1, 1.0]
    assert (await admin.get(path))["increment"] == 0.1


async def test_prices_are_read_and_followed_by_another_version(here: Town) -> None:
    admin, ada = await here.admin(), await here.person()
    book = (await admin.get("/v1/admin/prices")).json
    assert (book["version"], book["in_force"]) == (1, True)
    document = {n: book[n] for n in ("pipelines", "phases", "models", "vendor")}
    document["models"]["acme/tiny"] = {"kind": "credits_per_1k", "credits": 0.5}
    done = await admin.post("/v1/admin/prices", {"book": document})
    assert (done.status, done["version"]) == (201, 2)
    said = await ada.post("/api/v1/credits/calculate", {"model": "tiny", "tokens": 1000})
    assert (said["credits"], said["price_version"]) == (0.5, 2)
    assert (await admin.get("/v1/admin/prices?version=1"))["in_force"] is False
    assert (await admin.get("/v1/admin/prices?version=9")).problem == (404, "not_found")
    books: list[dict[str, Any]] = [{"phases": {"x": {"per": "page"}}}, {"colours": {}}]
    for wrong in books:
        refused = await admin.post("/v1/admin/prices", {"book": wrong})
        assert refused.problem == (400, "validation_failed")
        assert refused["errors"][0]["field"] == "book"
    old = {"book": document, "effective_from": "2020-01-01T00:00:00Z"}
    assert (await admin.post("/v1/admin/prices", old)).problem == (409, "conflict")


async def test_every_act_is_in_the_audit_log_also_a_refused_one(here: Town) -> None:
    admin, ada = await here.admin(), await here.rich(10)
    await ada.post("/api/v1/holds", {"credits": 5})
    await admin.post("/v1/admin/credits/set", subject("user", ada.user_id, balance=1))
    await admin.post("/v1/admin/credits/set", subject("user", ada.user_id, balance=7))
    log = await admin.get(f"/v1/admin/audit?subject_type=user&subject_id={ada.user_id}")
    newest, refused, _ = log["entries"]
    assert (newest["action"], newest["result"], newest["user_id"]) == (
        "set_balance",
        "set",
        admin.user_id,
    )
    assert (newest["resource_type"], newest["resource_id"]) == ("user", ada.user_id)
    assert newest["metadata"]["target"] == 7
    assert refused["result"] == "refused: below_held"
    page = await admin.get("/v1/admin/audit?limit=1")
    assert len(page["entries"]) == 1
    after = await admin.get(f"/v1/admin/audit?limit=1&cursor={page['next_cursor']}")
    assert after["entries"][0]["id"] < page["entries"][0]["id"]
    half = await admin.get("/v1/admin/audit?subject_type=user")
    assert half.problem == (400, "validation_failed")


async def test_no_account_is_made_whose_name_has_its_kind_twice(here: Town) -> None:
    admin = await here.admin()
    for path, body, field in (
        ("/v1/admin/grants", {"subject_type": "user", "credits": 5}, "subject_id"),
        ("/v1/admin/credits/set", {"subject_type": "user", "balance": 5}, "subject_id"),
        ("/v1/admin/tiers", {"subject_type": "user", "tier": "starter"}, "subject_id"),
        ("/api/credits/allocate", {"credits": 5}, "userId"),
    ):
        refused = await admin.post(path, {**body, field: "user:ada"})
        assert refused.problem == (400, "validation_failed"), path
        assert refused["errors"][0]["field"] == field
        assert "send the id alone" in refused["detail"]
    assert await here.store.names.find("user:user:ada") is None
