"""Whoever was made a member of an org, asked or not, keeps what is theirs and may leave."""

from __future__ import annotations

import asyncio
from unittest.mock import patch

import asyncpg
import pytest
from tests.integration.gateway.calling import Person, Town

from faregate.ledger import acts, reading_orgs
from faregate.ledger.database import Unavailable
from faregate.ledger.erase import erase
from faregate.ledger.verify import verify

pytestmark = pytest.mark.stack

SPEND = {"credits": 1, "reference": "r"}
DEDUCT = "/api/v1/credits/deduct"


def place(org: str, person: Person) -> str:
    return f"/api/v1/org/{org}/members/{person.user_id}"


async def test_a_member_spends_what_is_their_own_by_naming_themselves(here: Town) -> None:
    ada, boss = await here.rich(100), await here.person()
    org = await here.org(boss, 500)
    await boss.post(f"/api/v1/org/{org}/invite", {"email": ada.email})
    assert (await ada.post(DEDUCT, SPEND)).problem == (403, "no_allocation")
    own = f"user:{ada.user_id}"
    paid = await ada.post(DEDUCT, SPEND, org=own)
    assert (paid["payer"], paid["balance"]) == (own, 99)
    held = await ada.post("/api/v1/holds", {"credits": 5}, org=own)
    assert held["payer"] == own
    assert (await ada.post("/api/credits/check", {"credits": 94}, org=own))["sufficient"] is True
    listed = await ada.get("/api/v1/credits/transactions", org=own)
    assert [t["amount"] for t in listed["transactions"]] == [0, -1, 100]
    for other in (f"user:{boss.user_id}", "user:", ada.user_id):
        assert (await ada.post(DEDUCT, SPEND, org=other)).problem == (403, "not_a_member")


async def test_who_leaves_an_org_gives_back_what_is_free_and_settles_what_is_held(
    here: Town,
) -> None:
    boss = await here.person()
    org = await here.org(boss, 500)
    mate = await here.member(boss, org, 100)
    hold = (await mate.post("/api/v1/holds", {"credits": 30}))["hold_id"]
    for _ in range(2):
        left = await mate.call("DELETE", place(org, mate), key="bye")
        assert (left.status, left.text) == (204, "")
    await here.set_balance(f"user:{mate.user_id}", 10)
    assert (await mate.post(DEDUCT, SPEND))["payer"] == f"user:{mate.user_id}"
    done = await mate.post(f"/api/v1/holds/{hold}/settle", {"credits": 20})
    assert (done["payer"], done["balance"]) == (f"org:{org}", 480)
    assert (await mate.get(f"/api/v1/org/{org}")).problem == (403, "not_a_member")
    assert (await mate.call("DELETE", place(org, mate))).problem == (403, "not_a_member")
    assert (await verify(here.store.pool)).ok


async def test_what_was_used_of_an_org_stays_in_ones_history(here: Town) -> None:
    boss = await here.person()
    org = await here.org(boss, 500)
    mate = await here.member(boss, org, 100)
    assert (await mate.post(DEDUCT, {"credits": 7, "reference": "r"}))["payer"] == f"org:{org}"
    for _ in range(2):
        assert (await mate.get("/api/v1/usage/current"))["credits_used"] == 7
        await boss.call("DELETE", place(org, mate))


async def test_an_admin_removes_members_and_a_member_nobody_else(here: Town) -> None:
    boss, eve = await here.person(), await here.person()
    org = await here.org(boss, 500)
    mate, other = await here.member(boss, org), await here.member(boss, org)
    assert (await mate.call("DELETE", place(org, other))).problem == (403, "forbidden")
    assert (await eve.call("DELETE", place(org, mate))).problem == (403, "not_a_member")
    before = await here.store.pool.fetchval("SELECT count(*) FROM accounts")
    for nobody in (eve, Person(here.http, user_id="nobody")):
        assert (await boss.call("DELETE", place(org, nobody))).problem == (404, "not_found")
    assert await here.store.pool.fetchval("SELECT count(*) FROM accounts") == before
    assert (await boss.call("DELETE", place(org, mate))).status == 204
    assert (await boss.call("DELETE", place(org, mate))).problem == (404, "not_found")
    seen = await boss.get(f"/api/v1/org/{org}")
    assert {m["user_id"] for m in seen["members"]} == {boss.user_id, other.user_id}


async def test_the_only_admin_of_an_org_stays(here: Town) -> None:
    boss = await here.person()
    org = await here.org(boss)
    mate = await here.member(boss, org)
    refused = await boss.call("DELETE", place(org, boss))
    assert refused.problem == (409, "conflict")
    assert "admin" in refused["help"]
    await boss.post(f"/api/v1/org/{org}/invite", {"email": mate.email, "role": "admin"})
    assert (await boss.call("DELETE", place(org, boss))).status == 204
    assert (await mate.get(f"/api/v1/org/{org}"))["role"] == "admin"


async def test_of_admins_who_leave_at_once_one_stays(here: Town) -> None:
    boss = await here.person()
    org = await here.org(boss)
    mate = await here.member(boss, org)
    await boss.post(f"/api/v1/org/{org}/invite", {"email": mate.email, "role": "admin"})
    left = await asyncio.gather(*(p.call("DELETE", place(org, p)) for p in (boss, mate)))
    assert sorted(reply.status for reply in left) == [204, 409]
    roles = await reading_orgs.roles(here.store, f"org:{org}")
    assert list(roles.values()).count("admin") == 1


async def test_who_was_erased_is_no_admin_that_is_left(
    here: Town, owner: asyncpg.Connection
) -> None:
    boss = await here.person()
    org = await here.org(boss)
    mate = await here.member(boss, org)
    await boss.post(f"/api/v1/org/{org}/invite", {"email": mate.email, "role": "admin"})
    gone = await erase(owner, here.store.keys, f"user:{mate.user_id}", by="test", force=True)
    assert (await boss.call("DELETE", place(org, boss))).problem == (409, "conflict")
    before = await here.store.pool.fetchval("SELECT count(*) FROM accounts")
    nobody = Person(here.http, user_id=str(gone.account))
    assert (await boss.call("DELETE", place(org, nobody))).problem == (404, "not_found")
    assert await here.store.pool.fetchval("SELECT count(*) FROM accounts") == before


async def test_a_removal_that_was_not_done_is_no_right_to_do_it(here: Town) -> None:
    """Its key is kept before it is done; who repeats it later must still be allowed to."""
    boss = await here.person()
    org = await here.org(boss)
    mate, other = await here.member(boss, org), await here.member(boss, org)
    with patch.object(acts, "set_member", side_effect=Unavailable("away")):
        failed = await mate.call("DELETE", place(org, mate), key="bye")
        assert failed.problem == (503, "check_unavailable")
    await boss.post(f"/api/v1/org/{org}/invite", {"email": mate.email, "role": "admin"})
    with patch.object(acts, "set_member", side_effect=Unavailable("away")):
        assert (await mate.call("DELETE", place(org, other), key="out")).status == 503
    await acts.set_member(
        here.store, f"org:{org}", f"user:{mate.user_id}", "member", actor="test", key="demoted"
    )
    refused = await mate.call("DELETE", place(org, other), key="out")
    assert refused.problem == (403, "forbidden")
    for _ in range(2):
        assert (await mate.call("DELETE", place(org, mate), key="bye")).status == 204
    refused = await mate.call("DELETE", place(org, other), key="bye")
    assert refused.problem == (409, "idempotency_conflict")


async def test_an_org_that_is_not_there_is_not_found_by_those_who_may_see_all(here: Town) -> None:
    admin = await here.admin()
    for path in (
        "org/{}",
        "credits/organization/{}",
        "credits/organization/{}/my-allocation",
        "credits/organization/{}/usage-attribution",
    ):
        missing = await admin.get(f"/api/v1/{path.format('nowhere')}")
        assert missing.problem == (404, "account_not_found"), path
        known = await admin.get(f"/api/v1/{path.format(await here.org(admin))}")
        assert known.status == 200, path
