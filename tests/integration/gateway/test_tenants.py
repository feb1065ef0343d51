"""A never sees or moves what is B's: every route, called by somebody whom it does not concern."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from fastapi.routing import APIRoute
from tests.integration.gateway.calling import Person, Reply, Town

from faregate.gateway.app import RESOURCES
from faregate.gateway.callers import rules_of
from faregate.gateway.settings import ADMIN

pytestmark = pytest.mark.stack

NOBODY_ID = "00000000-0000-0000-0000-000000000000"


@dataclass(frozen=True, slots=True)
class Call:
    """How a route is called: its path with the victim's ids in it, and a body that is valid."""

    body: Any = None
    query: str = ""


GOOD: dict[str, Call] = {
    "POST /api/credits/check": Call({"credits": 1}),
    "POST /api/v1/credits/calculate": Call({"model": "gpt-4", "tokens": 1}),
    "POST /api/v1/credits/deduct": Call({"credits": 1, "reference": "r"}),
    "POST /api/v1/holds": Call({"credits": 1, "reference": "r"}),
    "POST /api/v1/holds/batch": Call({"operations": [{"op": "release", "hold_id": "{hold}"}]}),
    "POST /api/v1/holds/{hold_id}/settle": Call({"credits": 1}),
    "POST /api/v1/org": Call({"name": "Mine"}),
    "POST /api/v1/org/{org_id}/invite": Call({"email": "{email}"}),
    "POST /api/v1/credits/organization/{org_id}/purchase": Call({"credits": 5}),
    "POST /api/v1/credits/organization/{org_id}/allocate": Call(
        {"user_id": "{user}", "credits": 5}
    ),
    "POST /api/credits/allocate": Call({"userId": "{user}", "credits": 5}),
    "POST /v1/admin/credits/set": Call(
        {"subject_type": "user", "subject_id": "{user}", "balance": 5}
    ),
    "POST /v1/admin/grants": Call({"subject_type": "user", "subject_id": "{user}", "credits": 5}),
    "POST /v1/admin/refunds": Call({"entry_id": 1}),
    "POST /v1/admin/tiers": Call(
        {"subject_type": "user", "subject_id": "{user}", "tier": "enterprise"}
    ),
    "POST /v1/admin/prices": Call({"book": {"phases": {"x": {"per": "flat", "credits": 0}}}}),
    "PUT /v1/admin/orgs/{org_id}/policy": Call({"policy": "pool"}),
    "PUT /admin/settings/credit-increment": Call({"increment": 1.0}),
    "GET /v1/admin/grants": Call(query="?subject_type=user&subject_id={user}"),
}


def routes() -> list[str]:
    """Every route that needs a token: `POST /api/v1/org`."""
    found = [r for one in RESOURCES for r in one.router.routes if isinstance(r, APIRoute)]
    return [f"{min(r.methods or ())} {r.path}" for r in found if rules_of(r)[0].scope is not None]


def for_admins() -> list[str]:
    found = [r for one in RESOURCES for r in one.router.routes if isinstance(r, APIRoute)]
    return [f"{min(r.methods or ())} {r.path}" for r in found if rules_of(r)[0].scope == ADMIN]


@dataclass(slots=True)
class Victim:
    """Somebody with an org, credits, and a hold."""

    person: Person
    org: str
    hold: str

    def filled(self, value: Any) -> Any:
        """Put the victim's ids into a path or body."""
        if isinstance(value, str):
            ids = {"user": self.person.user_id, "hold": self.hold, "email": self.person.email}
            ids |= {"org_id": self.org, "hold_id": self.hold, "letter_id": "usage.recorded:0:0"}
            for name, id_ in ids.items():
                value = value.replace(f"{{{name}}}", id_)
        if isinstance(value, list):
            return [self.filled(one) for one in value]
        if isinstance(value, dict):
            return {name: self.filled(one) for name, one in value.items()}
        return value


async def victim(town: Town) -> Victim:
    boss = await town.person()
    org = await town.org(boss, 1_000)
    await town.set_balance(f"user:{boss.user_id}", 500)
    await boss.post(
        f"/api/v1/credits/organization/{org}/allocate",
        {"user_id": boss.user_id, "credits": 100},
    )
    held = await boss.post("/api/v1/holds", {"credits": 40, "reference": "mine"})
    assert held.status == 201
    return Victim(boss, org, held["hold_id"])


async def called(person: Person, route: str, whom: Victim, **more: Any) -> Reply:
    method, path = route.split()
    call = GOOD.get(route, Call())
    return await person.call(method, whom.filled(path + call.query), whom.filled(call.body), **more)


async def everything(town: Town) -> list[Any]:
    """All that the ledger and the gateway know, but accounts that are still empty."""
    pool = town.store.pool
    entries = await pool.fetch("SELECT id, account_id, amount, held_delta FROM entries ORDER BY id")
    plans = await pool.fetch("SELECT id, plan FROM accounts WHERE sequence > 0 ORDER BY id")
    roles = await pool.fetch("SELECT org_id, user_id, account_id FROM members")
    prices = await pool.fetchval("SELECT count(*) FROM price_versions")
    return [[tuple(r) for r in rows] for rows in (entries, plans, roles)] + [prices]


@pytest.mark.parametrize("token", [None, "not.a.token"], ids=["no token", "a bad token"])
async def test_without_a_good_token_no_route_answers_or_moves_anything(
    here: Town, token: str | None
) -> None:
    whom = await victim(here)
    before = await everything(here)
    for route in routes():
        reply = await called(Person(here.http, token), route, whom)
        assert reply.problem == (401, "unauthenticated"), route
    assert await everything(here) == before


async def test_a_stranger_moves_nothing_of_the_victims_on_any_route(here: Town) -> None:
    whom, eve = await victim(here), await here.rich(100)
    secrets = (whom.person.user_id, whom.org, whom.hold, whom.person.email)
    before = await theirs(here, whom)
    for route in routes():
        reply = await called(eve, route, whom)
        assert reply.status < 500, (route, reply.json)
        said = str(reply.json)
        if "{" in route:
            assert reply.status in {403, 404}, (route, reply.json)
        if reply.status < 300:
            assert not any(secret in said for secret in secrets), (route, said)
    assert await theirs(here, whom) == before


async def theirs(town: Town, whom: Victim) -> list[Any]:
    """What the victim and their org have, to the last entry."""
    rows = await town.store.pool.fetch(
        """SELECT s.subject, a.balance, a.held, a.debt, a.sequence, a.plan
        FROM accounts a JOIN subjects s ON s.account_id = a.id
        LEFT JOIN members m ON m.account_id = a.id
        LEFT JOIN subjects o ON o.account_id = m.org_id
        WHERE s.subject = ANY ($1) OR o.subject = $2 ORDER BY a.id""",
        [f"user:{whom.person.user_id}", f"org:{whom.org}"],
        f"org:{whom.org}",
    )
    return [tuple(r) for r in rows]


async def test_a_stranger_cannot_call_for_the_victims_org(here: Town) -> None:
    whom, eve = await victim(here), await here.rich(100)
    before = await theirs(here, whom)
    for route in (
        "POST /api/credits/check",
        "POST /api/v1/credits/deduct",
        "POST /api/v1/holds",
        "POST /api/v1/holds/batch",
        "POST /api/v1/holds/{hold_id}/settle",
        "POST /api/v1/holds/{hold_id}/release",
        "GET /api/v1/credits/transactions",
    ):
        for org in (whom.org, f"org:{whom.org}", NOBODY_ID, ""):
            reply = await called(eve, route, whom, headers={"X-Faregate-Org": org})
            assert reply.problem == (403, "not_a_member"), (route, org)
    assert await theirs(here, whom) == before


async def test_only_platform_admins_use_the_routes_for_them(here: Town) -> None:
    whom = await victim(here)
    before = await everything(here)
    for route in for_admins():
        reply = await called(whom.person, route, whom)
        assert reply.problem == (403, "forbidden"), route
    assert await everything(here) == before
    admin = await here.admin()
    for route in for_admins():
        reply = await called(admin, route, whom)
        assert reply.status in {200, 201, 400, 404, 409}, (route, reply.json)


async def test_a_member_does_not_do_what_admins_of_the_org_do(here: Town) -> None:
    whom = await victim(here)
    member = await here.member(whom.person, whom.org)
    for route in (
        "POST /api/v1/org/{org_id}/invite",
        "POST /api/v1/credits/organization/{org_id}/purchase",
        "POST /api/v1/credits/organization/{org_id}/allocate",
        "GET /api/v1/credits/organization/{org_id}/usage-attribution",
    ):
        assert (await called(member, route, whom)).problem == (403, "forbidden"), route
    assert (await called(member, "GET /api/v1/org/{org_id}", whom))["members"] is None


async def test_whoever_is_removed_from_an_org_is_out_with_their_next_call(here: Town) -> None:
    from faregate.ledger import acts

    whom = await victim(here)
    member = await here.member(whom.person, whom.org, 50)
    spend = {"credits": 1, "reference": "r"}
    assert (await member.post("/api/v1/credits/deduct", spend, org=whom.org)).status == 200
    await acts.set_member(
        here.store, f"org:{whom.org}", f"user:{member.user_id}", "removed", actor="t", key="out"
    )
    refused = await member.post("/api/v1/credits/deduct", spend, org=whom.org)
    assert refused.problem == (403, "not_a_member")


async def test_members_see_only_what_they_used_of_the_org(here: Town) -> None:
    whom = await victim(here)
    member = await here.member(whom.person, whom.org, 50)
    await member.post("/api/v1/credits/deduct", {"credits": 2, "reference": "m"})
    seen = await member.get("/api/v1/credits/transactions", org=whom.org)
    assert [t["amount"] for t in seen["transactions"]] == [-2]
    all_of_it = await whom.person.get("/api/v1/credits/transactions", org=whom.org)
    assert len(all_of_it["transactions"]) == 3


async def test_the_org_of_a_call_is_said_when_there_are_several(here: Town) -> None:
    boss = await here.person()
    first, second = await here.org(boss, 10), await here.org(boss, 20)
    for org in (first, second):
        await boss.post(
            f"/api/v1/credits/organization/{org}/allocate",
            {"email": boss.email.upper(), "credits": 5},
        )
    spend = {"credits": 1, "reference": "r"}
    refused = await boss.post("/api/v1/credits/deduct", spend)
    assert refused.problem == (400, "org_ambiguous")
    assert "X-Faregate-Org" in refused["help"]
    assert (await boss.post("/api/v1/credits/deduct", spend, org=second))["balance"] == 19
    assert (await boss.post("/api/v1/credits/deduct", spend, org=first))["balance"] == 9
