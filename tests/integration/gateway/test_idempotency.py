"""The same key and body happen once, whoever answers; another body is a conflict."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.integration.gateway.calling import Person, Town, town

pytestmark = pytest.mark.stack


async def test_a_deduction_with_a_key_happens_once_and_answers_the_same(here: Town) -> None:
    ada = await here.rich(100)
    body = {"credits": 30, "reference": "r"}
    first = await ada.post("/api/v1/credits/deduct", body, key="k1")
    await ada.post("/api/v1/credits/deduct", {"credits": 1, "reference": "other"})
    again = await ada.post("/api/v1/credits/deduct", body, key="k1")
    assert (again.status, again.json) == (200, first.json)
    assert await here.balance(ada) == 69
    for other in ({"credits": 31}, {"reference": "s"}, {"description": "d"}):
        conflict = await ada.post("/api/v1/credits/deduct", {**body, **other}, key="k1")
        assert conflict.problem == (409, "idempotency_conflict")
    assert await here.balance(ada) == 69


async def test_a_refusal_is_an_answer_too_and_stays(here: Town) -> None:
    ada = await here.rich(10)
    body = {"credits": 30, "reference": "r"}
    refused = await ada.post("/api/v1/credits/deduct", body, key="k1")
    assert refused.problem == (402, "insufficient_credits")
    await here.set_balance(f"user:{ada.user_id}", 100)
    again = await ada.post("/api/v1/credits/deduct", body, key="k1")
    assert again.json == refused.json
    assert (await ada.post("/api/v1/credits/deduct", body, key="k2")).status == 200


async def test_the_same_key_at_once_happens_once(here: Town) -> None:
    ada = await here.rich(100)
    body = {"credits": 30, "reference": "r"}
    calls = [ada.post("/api/v1/credits/deduct", body, key="k1") for _ in range(20)]
    answers = await asyncio.gather(*calls)
    assert {(a.status, str(a.json)) for a in answers} == {(200, str(answers[0].json))}
    assert await here.balance(ada) == 70


async def test_a_repeat_is_one_whatever_its_caller_belongs_to_since(here: Town) -> None:
    """Else they are told that the key was used, send a new one, and are charged twice."""
    ada = await here.rich(100)
    body, batch = (
        {"credits": 30, "reference": "r"},
        {"operations": [{"op": "reserve", "credits": 3}]},
    )
    calls = [
        ("/api/v1/credits/deduct", body),
        ("/api/v1/holds", {"credits": 5}),
        ("/api/v1/holds/batch", batch),
    ]
    first = [await ada.post(path, sent, key="k1") for path, sent in calls]
    own = f"user:{ada.user_id}"
    orgs = [await here.org(ada, 1_000)]
    assert [(await ada.post(path, sent, key="k1")).json for path, sent in calls] == [
        f.json for f in first
    ]
    orgs.append(await here.org(ada, 1_000))
    for path, sent in calls[:2]:
        assert (await ada.post(path, sent, key="k2")).problem == (400, "org_ambiguous")
        assert (await ada.post(path, sent)).problem == (400, "org_ambiguous")
    (refused,) = (await ada.post(*calls[2], key="k2"))["results"]
    assert (refused["status"], refused["reason"]) == (400, "org_ambiguous")
    for named in (None, own, orgs[0]):
        again = [(await ada.post(path, sent, key="k1", org=named)).json for path, sent in calls]
        assert again == [f.json for f in first]
    assert await here.balance(ada) == 62


async def test_who_has_left_an_org_is_answered_as_the_first_time(here: Town) -> None:
    """Else their own account pays for it once more, with the new key that they are told to send."""
    boss = await here.person()
    org = await here.org(boss, 1_000)
    mate = await here.member(boss, org, 500)
    await here.set_balance(f"user:{mate.user_id}", 100)
    holds = "/api/v1/holds"
    calls: list[tuple[str, dict[str, Any]]] = [
        ("/api/v1/credits/deduct", {"credits": 30, "reference": "r"}),
        (holds, {"credits": 5}),
        (f"{holds}/batch", {"operations": [{"op": "reserve", "credits": 3}]}),
    ]
    first = [await mate.post(path, sent, key="k1", org=org) for path, sent in calls]
    assert first[0]["payer"] == f"org:{org}"
    out = await boss.call("DELETE", f"/api/v1/org/{org}/members/{mate.user_id}")
    assert out.status == 204
    for named in (org, None):
        again = [await mate.post(path, sent, key="k1", org=named) for path, sent in calls]
        assert [(a.status, a.json) for a in again] == [(f.status, f.json) for f in first]
    for path, sent in calls[:2]:
        for key in ("k2", None):
            refused = await mate.post(path, sent, key=key, org=org)
            assert refused.problem == (403, "not_a_member")
    (refused,) = (await mate.post(*calls[2], key="k2", org=org))["results"]
    assert (refused["status"], refused["reason"]) == (403, "not_a_member")
    assert await here.balance(mate) == 100


async def test_a_key_that_named_one_org_is_not_for_another(here: Town) -> None:
    ada = await here.rich(100)
    orgs = [await here.org(ada, 1_000) for _ in range(2)]
    for org in orgs:
        allocation = {"user_id": ada.user_id, "credits": 50}
        await ada.post(f"/api/v1/credits/organization/{org}/allocate", allocation)
    body, path = {"credits": 30, "reference": "r"}, "/api/v1/credits/deduct"
    first = await ada.post(path, body, key="k1", org=orgs[0])
    assert first["payer"] == f"org:{orgs[0]}"
    for other in (orgs[1], f"user:{ada.user_id}"):
        assert (await ada.post(path, body, key="k1", org=other)).problem == (
            409,
            "idempotency_conflict",
        )
    left = await ada.call("DELETE", f"/api/v1/org/{orgs[1]}/members/{ada.user_id}")
    assert left.problem == (409, "conflict")
    assert await here.balance(ada) == 100


async def test_a_key_is_its_callers_and_its_routes_alone(here: Town) -> None:
    ada, bob = await here.rich(100), await here.rich(100)
    body = {"credits": 30, "reference": "r"}
    for person in (ada, bob):
        assert (await person.post("/api/v1/credits/deduct", body, key="k1"))["balance"] == 70
    assert (await ada.post("/api/v1/holds", body, key="k1")).status == 201


async def test_another_process_gives_the_first_answer(here: Town) -> None:
    ada = await here.rich(100)
    body = {"credits": 30, "reference": "r"}
    first = await ada.post("/api/v1/credits/deduct", body, key="k1")
    held = await ada.post("/api/v1/holds", {"credits": 5}, key="h1")
    async with town(here.store) as other:
        there = Person(other.http, ada.token, ada.user_id)
        assert (await there.post("/api/v1/credits/deduct", body, key="k1")).json == first.json
        again = await there.post("/api/v1/holds", {"credits": 5}, key="h1")
        assert (again.status, again.json) == (201, held.json)
    assert await here.balance(ada) == 65


@pytest.mark.parametrize(
    ("path", "body", "changed"),
    [
        ("/api/credits/allocate", {"userId": "u", "credits": 5}, {"credits": 6}),
        (
            "/v1/admin/grants",
            {"subject_type": "org", "subject_id": "o", "credits": 5},
            {"kind": "bonus"},
        ),
        (
            "/v1/admin/credits/set",
            {"subject_type": "user", "subject_id": "u", "balance": 5},
            {"balance": 6},
        ),
        ("/api/v1/org", {"name": "Acme"}, {"name": "Other"}),
    ],
)
async def test_acts_of_admins_happen_once_as_well(
    here: Town, path: str, body: dict[str, Any], changed: dict[str, Any]
) -> None:
    admin = await here.admin()
    first = await admin.post(path, body, key="k1")
    assert first.status in {200, 201}
    again = await admin.post(path, body, key="k1")
    assert (again.status, again.json) == (first.status, first.json)
    conflict = await admin.post(path, {**body, **changed}, key="k1")
    assert conflict.problem == (409, "idempotency_conflict")


async def test_a_key_that_is_too_long_is_refused(here: Town) -> None:
    ada = await here.rich(100)
    refused = await ada.post("/api/v1/credits/deduct", {"credits": 1}, key="k" * 201)
    assert refused.problem == (400, "validation_failed")
    assert refused["errors"][0]["field"] == "idempotency-key"


async def test_administrative_acts_with_the_same_key_at_once_happen_once(here: Town) -> None:
    """Also when they share a transaction, where the first has no number yet."""
    admin, ada = await here.admin(), await here.rich(100)
    body = {"subject_type": "user", "subject_id": ada.user_id, "credits": 5}
    done = await asyncio.gather(
        *(admin.post("/v1/admin/grants", body, key="same") for _ in range(20))
    )
    assert {reply.status for reply in done} == {201}, [r.json for r in done]
    assert {reply["grant_number"] for reply in done} == {2}
    assert await here.balance(ada) == 105
    charged = await ada.post("/api/v1/credits/deduct", {"credits": 30, "reference": "r"})
    refund = {"entry_id": charged["entry_id"]}
    done = await asyncio.gather(
        *(admin.post("/v1/admin/refunds", refund, key=f"k{n}") for n in range(10))
    )
    assert {reply.status for reply in done} == {201}, [r.json for r in done]
    assert sorted(reply["repeated"] for reply in done) == [False, *[True] * 9]
    assert await here.balance(ada) == 105
