"""Holds over HTTP: reserve, settle as it goes, release; one by one and many at once."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import pytest
from tests.integration.gateway.calling import Person, Town

pytestmark = pytest.mark.stack


async def held(person: Person, **body: Any) -> str:
    reply = await person.post("/api/v1/holds", {"reference": "session", **body})
    assert reply.status == 201, reply.json
    return str(reply["hold_id"])


async def test_a_session_reserves_settles_as_it_goes_and_releases_the_rest(here: Town) -> None:
    ada = await here.rich(100)
    reply = await ada.post("/api/v1/holds", {"credits": 40, "ttl_s": 60, "reference": "s"})
    assert (reply.status, reply["reserved_credits"]) == (201, 40)
    assert reply["expires_at"]
    seen = await ada.get("/api/v1/credits/balance")
    assert (seen["credits_remaining"], seen["held"]) == (60, 40)

    hold = f"/api/v1/holds/{reply['hold_id']}"
    part = await ada.post(f"{hold}/settle", {"credits": 10, "final": False})
    assert (part.status, part["credits"], part["balance"]) == (200, 10, 90)
    seen = await ada.get("/api/v1/credits/balance")
    assert (seen["credits_remaining"], seen["held"]) == (60, 30)
    done = await ada.post(f"{hold}/settle", {"credits": 5})
    assert (done["credits"], done["balance"]) == (5, 85)
    seen = await ada.get("/api/v1/credits/balance")
    assert (seen["credits_remaining"], seen["held"]) == (85, 0)
    assert (await ada.post(f"{hold}/release"))["released_credits"] == 0


async def test_a_hold_that_is_released_gives_all_of_it_back(here: Town) -> None:
    ada = await here.rich(100)
    hold = await held(ada, credits=40)
    assert (await ada.post(f"/api/v1/holds/{hold}/release"))["released_credits"] == 40
    assert await here.balance(ada) == 100


async def test_what_was_settled_for_good_is_not_charged_again(here: Town) -> None:
    ada = await here.rich(100)
    hold = f"/api/v1/holds/{await held(ada, credits=40)}"
    for _ in range(2):
        assert (await ada.post(f"{hold}/settle", {"credits": 5}, key="k"))["balance"] == 95
    for final in (True, False):
        again = await ada.post(f"{hold}/settle", {"credits": 5, "final": final})
        assert again.problem == (409, "hold_settled")
        assert "deduct" in again["help"]
    whole = {"operations": [{"op": "settle", "hold_id": hold.rpartition("/")[2], "credits": 5}]}
    (again,) = (await ada.post("/api/v1/holds/batch", whole))["results"]
    assert (again["status"], again["reason"]) == (409, "hold_settled")
    assert await here.balance(ada) == 95


async def test_what_held_nothing_is_settled_for_good_once_too(here: Town) -> None:
    ada = await here.rich(100)
    one, other = [await held(ada, model="gpt-4", max_tokens=0) for _ in range(2)]
    for final in (False, True):
        done = await ada.post(f"/api/v1/holds/{one}/settle", {"credits": 5, "final": final})
        assert done.status == 200, done.json
    refused = await ada.post(f"/api/v1/holds/{one}/settle", {"credits": 5})
    assert refused.problem == (409, "hold_settled")
    settle = {"op": "settle", "hold_id": other, "credits": 5}
    done = await ada.post("/api/v1/holds/batch", {"operations": [settle, settle]})
    assert [r.get("reason") for r in done["results"]] == [None, "hold_settled"]
    assert await here.balance(ada) == 85


async def test_a_key_releases_one_hold(here: Town) -> None:
    ada = await here.rich(100)
    one, other = await held(ada, credits=40), await held(ada, credits=7)
    for _ in range(2):
        done = await ada.post(f"/api/v1/holds/{one}/release", key="rk")
        assert (done.status, done["released_credits"]) == (200, 40)
    refused = await ada.post(f"/api/v1/holds/{other}/release", key="rk")
    assert refused.problem == (409, "idempotency_conflict")
    assert (await ada.get("/api/v1/credits/balance"))["held"] == 7


async def test_a_text_is_no_boolean(here: Town) -> None:
    ada = await here.rich(100)
    hold = await held(ada, credits=40)
    for wrong in ("yes", "false", 1):
        refused = await ada.post(f"/api/v1/holds/{hold}/settle", {"credits": 1, "final": wrong})
        assert refused.problem == (400, "validation_failed")
        assert refused["errors"][0]["field"] == "final"
    assert (await ada.get("/api/v1/credits/balance"))["held"] == 40


async def test_a_hold_for_a_model_is_settled_by_tokens_at_its_price(here: Town) -> None:
    ada = await here.rich(1_000)
    reply = await ada.post("/api/v1/holds", {"model": "gpt-4", "max_tokens": 1_000})
    assert (reply.status, reply["reserved_credits"]) == (201, 480)
    done = await ada.post(f"/api/v1/holds/{reply['hold_id']}/settle", {"tokens": 100})
    assert (done["credits"], done["balance"]) == (48, 952)
    assert (await ada.get("/api/v1/usage/current"))["api_calls_used"] == 1


async def test_what_was_used_beyond_a_hold_is_taken_and_then_owed(here: Town) -> None:
    ada = await here.rich(50)
    hold = await held(ada, credits=40)
    done = await ada.post(f"/api/v1/holds/{hold}/settle", {"credits": 60})
    assert (done["credits"], done["balance"]) == (60, 0)
    assert (await ada.get("/api/v1/credits/balance"))["debt"] == 10
    refused = await ada.post("/api/v1/credits/deduct", {"credits": 1, "reference": "r"})
    assert refused.problem == (402, "debt_outstanding")


async def test_a_hold_that_is_not_covered_is_refused(here: Town) -> None:
    ada = await here.rich(50)
    refused = await ada.post("/api/v1/holds", {"credits": 51, "reference": "r"})
    assert refused.problem == (402, "insufficient_credits")
    assert (refused["required_credits"], refused["available_credits"]) == (51, 50)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "credits"),
        ({"credits": 0}, "credits"),
        ({"credits": 1, "model": "gpt-4"}, "credits"),
        ({"model": "gpt-4"}, "max_tokens"),
        ({"credits": 1, "ttl_s": 0}, "ttl_s"),
        ({"credits": 1, "ttl_s": 86_401}, "ttl_s"),
    ],
    ids=str,
)
async def test_a_hold_that_is_not_valid_names_the_field(
    here: Town, body: dict[str, Any], field: str
) -> None:
    ada = await here.rich(50)
    refused = await ada.post("/api/v1/holds", body)
    assert refused.problem == (400, "validation_failed")
    assert refused["errors"][0]["field"] == field


async def test_an_unknown_hold_and_one_of_somebody_else_are_the_same_to_a_caller(
    here: Town,
) -> None:
    ada, eve = await here.rich(50), await here.rich(50)
    hold = await held(ada, credits=40)
    for person, name in ((eve, hold), (eve, str(uuid4())), (ada, str(uuid4()))):
        for call, body in (("settle", {"credits": 1}), ("release", None)):
            refused = await person.post(f"/api/v1/holds/{name}/{call}", body)
            assert refused.problem == (404, "unknown_hold")
    bad = await ada.post("/api/v1/holds/not-a-uuid/release")
    assert bad.problem == (400, "validation_failed")


async def test_a_batch_is_one_transaction_and_each_operation_stands_for_itself(
    here: Town,
) -> None:
    ada = await here.rich(100)
    old = await held(ada, credits=10)
    before = await here.store.pool.fetchval("SELECT count(DISTINCT id >> 14) FROM outcomes")
    reply = await ada.post(
        "/api/v1/holds/batch",
        {
            "operations": [
                {"op": "reserve", "credits": 20, "reference": "a"},
                {"op": "settle", "hold_id": old, "credits": 4},
                {"op": "reserve", "credits": 1_000},
                {"op": "release", "hold_id": str(uuid4())},
                {"op": "reserve"},
                {"op": "reserve", "credits": 30},
            ]
        },
    )
    assert reply.status == 200, reply.json
    a, settled, poor, unknown, invalid, b = reply["results"]
    assert (a["reserved_credits"], b["reserved_credits"]) == (20, 30)
    assert (settled["credits"], settled["balance"]) == (4, 96)
    assert (poor["status"], poor["reason"]) == (402, "insufficient_credits")
    assert (unknown["status"], unknown["reason"]) == (404, "unknown_hold")
    assert (invalid["status"], invalid["errors"][0]["field"]) == (400, "credits")
    after = await here.store.pool.fetchval("SELECT count(DISTINCT id >> 14) FROM outcomes")
    assert after - before == 1
    assert await here.balance(ada) == 46


async def test_a_batch_with_a_key_answers_the_same_again(here: Town) -> None:
    ada = await here.rich(100)
    body = {"operations": [{"op": "reserve", "credits": 20}, {"op": "reserve", "credits": 90}]}
    first = await ada.post("/api/v1/holds/batch", body, key="b1")
    again = await ada.post("/api/v1/holds/batch", body, key="b1")
    assert again.json == first.json
    more = {"operations": [*body["operations"], {"op": "reserve", "credits": 1}]}
    conflict = await ada.post("/api/v1/holds/batch", more, key="b1")
    assert conflict.problem == (409, "idempotency_conflict")
    assert await here.balance(ada) == 80


async def test_the_key_of_a_batch_that_left_no_trace_is_not_free_for_another(here: Town) -> None:
    ada = await here.rich(100)
    release = {"op": "release", "hold_id": str(uuid4())}
    first = {"operations": [release, {"op": "reserve", "credits": 5}]}
    assert (await ada.post("/api/v1/holds/batch", first, key="b")).status == 200
    other = {"operations": [{"op": "reserve", "credits": 7}]}
    refused = await ada.post("/api/v1/holds/batch", other, key="b")
    assert refused.problem == (409, "idempotency_conflict")
    assert (await ada.post("/api/v1/holds/batch", first, key="b")).status == 200
    assert await here.balance(ada) == 95


async def test_of_two_batches_with_one_key_at_once_one_is_done(here: Town) -> None:
    ada = await here.rich(1_000)
    for number in range(10):
        bodies = (
            {"operations": [{"op": "reserve", "credits": 5}]},
            {"operations": [{"op": "reserve", "credits": 7}, {"op": "reserve", "credits": 1}]},
        )
        calls = [ada.post("/api/v1/holds/batch", body, key=f"b{number}") for body in bodies]
        replies = await asyncio.gather(*calls)
        assert sorted(reply.status for reply in replies) == [200, 409]


@pytest.mark.parametrize(
    "operations",
    [
        [],
        [{"op": "steal"}],
        [{"credits": 1}],
        [{"op": "release"}],
        [{"op": "reserve", "credits": 1}] * 101,
        "all",
    ],
    ids=["none", "unknown", "unnamed", "without a hold", "too many", "no list"],
)
async def test_a_batch_that_is_not_valid_does_nothing(here: Town, operations: Any) -> None:
    ada = await here.rich(100)
    refused = await ada.post("/api/v1/holds/batch", {"operations": operations})
    assert refused.problem == (400, "validation_failed")
    assert await here.balance(ada) == 100


async def test_an_id_that_cannot_be_is_told_by_the_rule_and_not_by_a_pattern(here: Town) -> None:
    ada = await here.rich(50)
    refused = await ada.post("/api/v1/holds", {"credits": 1, "reference": "a\u202eb"})
    (error,) = refused["errors"]
    assert error["field"] == "reference"
    assert error["message"].startswith("must be 1 to 200 characters, without control")
