"""A never sees or moves what is B's: every route, called by somebody whom it does not concern.

A route without a case here fails `test_every_route_has_a_case`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import pytest
from tests.helpers.routes import routes
from tests.integration.gateway.calling import PASSWORD, Person, Reply, Town, everything
from tests.integration.gateway.llm_world import HELLO, Street, street
from tests.integration.gateway.provider import whole
from tests.unit.gateway.test_idempotency import EXEMPT, UNSAFE

from faregate.gateway.callers import PayerRule, rules_of
from faregate.gateway.settings import ADMIN
from faregate.ledger import acts
from faregate.ledger.core import Rules
from faregate.ledger.store import open_store

pytestmark = pytest.mark.stack

NOBODY_ID = "00000000-0000-0000-0000-000000000000"
KEY = "the-same-key"
"""The victim has used it on every route that takes one; so does the stranger."""


@dataclass(frozen=True, slots=True)
class Case:
    """How a route is called, with the victim's ids in path, query and body.

    `own` is what those get whom it concerns: the victim, or a platform admin. `stranger` is the
    problem of somebody else; None: the route is about whoever calls, and tells of nobody else.
    """

    body: Any = None
    query: str = ""
    own: int = 200
    stranger: tuple[int, str] | None = None
    headers: dict[str, str] = field(default_factory=dict)


OUTSIDE = (403, "not_a_member")
NOT_ADMIN = (403, "forbidden")
NOT_SET_UP = (404, "not_found")
CHAT = {"model": "gpt-3.5-turbo", "messages": HELLO}
BYOK = {"X-BYOK-Provider": "openrouter"}
SUBJECT = {"subject_type": "user", "subject_id": "{user}"}
ORG_CREDITS = "/api/v1/credits/organization/{org_id}"
FLAT = {"phases": {"x": {"per": "flat", "credits": 0}}}

CASES: dict[str, Case] = {
    # Open to all.
    "GET /health": Case(),
    "GET /ready": Case(),
    "GET /metrics": Case(),
    "GET /api/version": Case(),
    "POST /auth/register": Case(
        {"email": "{email}", "password": PASSWORD}, own=409, stranger=(409, "email_taken")
    ),
    "POST /api/auth/login": Case(
        {"email": "{email}", "password": "a guess at it"},
        own=401,
        stranger=(401, "sign_in_failed"),
    ),
    # Signed by who sends them; neither is set up here.
    "POST /webhooks/identity": Case(own=404, stranger=NOT_SET_UP),
    "POST /webhooks/lago": Case(own=404, stranger=NOT_SET_UP),
    # About whoever calls.
    "GET /api/v1/credits/balance": Case(),
    "GET /api/credits/balance": Case(),
    "POST /api/credits/check": Case({"credits": 1}),
    "POST /api/v1/credits/calculate": Case({"model": "gpt-4", "tokens": 1}),
    "POST /api/v1/credits/deduct": Case({"credits": 1, "reference": "r"}),
    "GET /api/v1/credits/transactions": Case(query="?limit=200"),
    "POST /api/v1/holds": Case({"credits": 1, "reference": "r"}, own=201),
    "POST /api/v1/holds/batch": Case(
        {
            "operations": [
                {"op": "settle", "hold_id": "{hold}", "credits": 1},
                {"op": "release", "hold_id": "{hold}"},
            ]
        }
    ),
    "GET /api/v1/usage/current": Case(),
    "GET /api/v1/usage/history": Case(),
    "POST /v1/chat/completions": Case(CHAT),
    "POST /api/v1/llm/chat/completions": Case(
        CHAT, headers=BYOK, stranger=(400, "byok_key_missing")
    ),
    "GET /v1/models": Case(),
    "GET /api/v1/llm/models": Case(),
    "GET /api/v1/settings/byok-keys": Case(),
    "POST /api/v1/settings/byok-keys": Case(
        {"provider": "groq", "api_key": "sk-of-the-caller"}, own=201
    ),
    "POST /api/v1/org": Case({"name": "Mine"}, own=201),
    # Of somebody else.
    "DELETE /api/v1/settings/byok-keys/{provider}": Case(own=204, stranger=(404, "not_found")),
    "POST /api/v1/holds/{hold_id}/settle": Case({"credits": 1}, stranger=(404, "unknown_hold")),
    "POST /api/v1/holds/{hold_id}/release": Case(stranger=(404, "unknown_hold")),
    "GET /api/v1/org/{org_id}": Case(stranger=OUTSIDE),
    "POST /api/v1/org/{org_id}/invite": Case({"email": "{mate}"}, own=201, stranger=OUTSIDE),
    "DELETE /api/v1/org/{org_id}/members/{user_id}": Case(own=204, stranger=OUTSIDE),
    f"GET {ORG_CREDITS}": Case(stranger=OUTSIDE),
    f"POST {ORG_CREDITS}/purchase": Case({"credits": 5}, stranger=OUTSIDE),
    f"POST {ORG_CREDITS}/allocate": Case({"user_id": "{user}", "credits": 5}, stranger=OUTSIDE),
    f"GET {ORG_CREDITS}/my-allocation": Case(stranger=OUTSIDE),
    f"GET {ORG_CREDITS}/usage-attribution": Case(query="?group_by=member,model", stranger=OUTSIDE),
    # For platform admins.
    "POST /api/credits/allocate": Case(
        {"userId": "{user}", "credits": 5}, own=201, stranger=NOT_ADMIN
    ),
    "POST /v1/admin/credits/set": Case({**SUBJECT, "balance": 500}, stranger=NOT_ADMIN),
    "POST /v1/admin/grants": Case({**SUBJECT, "credits": 5}, own=201, stranger=NOT_ADMIN),
    "GET /v1/admin/grants": Case(query="?subject_type=user&subject_id={user}", stranger=NOT_ADMIN),
    "POST /v1/admin/grants/revoke": Case({**SUBJECT, "grant_number": 1}, stranger=NOT_ADMIN),
    "POST /v1/admin/refunds": Case({"entry_id": "{entry}"}, own=201, stranger=NOT_ADMIN),
    "POST /v1/admin/tiers": Case({**SUBJECT, "tier": "enterprise"}, stranger=NOT_ADMIN),
    "GET /v1/admin/tiers": Case(stranger=NOT_ADMIN),
    "POST /v1/admin/prices": Case({"book": FLAT}, own=201, stranger=NOT_ADMIN),
    "GET /v1/admin/prices": Case(stranger=NOT_ADMIN),
    "PUT /v1/admin/orgs/{org_id}/policy": Case({"policy": "pool"}, stranger=NOT_ADMIN),
    "GET /v1/admin/orgs/{org_id}/policy": Case(stranger=NOT_ADMIN),
    "GET /v1/admin/audit": Case(query="?subject_type=org&subject_id={org}", stranger=NOT_ADMIN),
    "GET /v1/admin/dlq": Case(stranger=NOT_ADMIN),
    "GET /v1/admin/dlq/{letter_id}": Case(own=404, stranger=NOT_ADMIN),
    "POST /v1/admin/dlq/{letter_id}/replay": Case(own=404, stranger=NOT_ADMIN),
    "GET /v1/admin/fraud": Case(stranger=NOT_ADMIN),
    "POST /v1/admin/fraud/{case_id}": Case({"verdict": "confirmed"}, own=404, stranger=NOT_ADMIN),
    "GET /admin/settings/credit-increment": Case(stranger=NOT_ADMIN),
    "PUT /admin/settings/credit-increment": Case({"increment": 1.0}, stranger=NOT_ADMIN),
}
LAST = (
    "DELETE /api/v1/settings/byok-keys/{provider}",
    "DELETE /api/v1/org/{org_id}/members/{user_id}",
    "POST /api/v1/holds/{hold_id}/release",
    "POST /api/v1/holds/batch",
    "POST /v1/admin/prices",
    "POST /api/v1/org",
)
"""What is called last: after these, other cases have nothing to find."""
IN_ORDER = [*(route for route in CASES if route not in LAST), *LAST]


def guarded() -> list[str]:
    """Name every route that needs a token."""
    return [name for name, route in routes().items() if rules_of(route)[0].scope is not None]


def for_admins() -> list[str]:
    return [name for name, route in routes().items() if rules_of(route)[0].scope == ADMIN]


def for_an_org() -> list[str]:
    """Name every route whose payer the header X-Faregate-Org says."""
    found = [n for n, r in routes().items() if isinstance(rules_of(r)[0], PayerRule)]
    return [*found, "GET /api/v1/credits/transactions"]


@pytest.fixture
async def here(pool: asyncpg.Pool) -> AsyncIterator[Street]:
    async with street(await open_store(pool, Rules(provisioning="manual"))) as found:
        found.provider.answer = whole("Hello", usage=(7, 3))
        yield found


@dataclass(slots=True)
class Victim:
    """Somebody with an org, credits, usage, a hold, keys, and a mate in the org."""

    person: Person
    org: str
    hold: str
    entry: int
    mate: Person

    @property
    def secrets(self) -> tuple[str, ...]:
        """What tells that something is theirs: ids, names, amounts that nobody else has."""
        ids = (self.person.user_id, self.person.email, self.mate.user_id, self.mate.email)
        return (*ids, self.org, "expected@", "Secret", "4321.", "8765.", "sk-of-the-v", "mine-")

    def filled(self, value: Any) -> Any:
        """Put the victim's ids into a path, query or body."""
        if value == "{entry}":
            return self.entry
        if isinstance(value, str):
            ids = {"user": self.person.user_id, "hold": self.hold, "email": self.person.email}
            ids |= {"org_id": self.org, "org": self.org, "hold_id": self.hold}
            ids |= {"mate": self.mate.email, "user_id": self.mate.user_id, "provider": "openrouter"}
            ids |= {"letter_id": "usage.recorded:0:0", "case_id": NOBODY_ID}
            for name, id_ in ids.items():
                value = value.replace(f"{{{name}}}", id_)
        if isinstance(value, list):
            return [self.filled(one) for one in value]
        if isinstance(value, dict):
            return {name: self.filled(one) for name, one in value.items()}
        return value


async def victim(town: Town) -> Victim:
    """Make somebody who has all there is, by calls with the key that others will try."""
    boss, mate, admin = await town.person(), await town.person(), await town.admin()
    org = str((await boss.post("/api/v1/org", {"name": "Secret"}, key=KEY))["org_id"])
    money = f"/api/v1/credits/organization/{org}"
    granted = {"subject_type": "user", "subject_id": boss.user_id, "credits": 8765.25}
    done = [
        await boss.post(f"{money}/purchase", {"credits": 4321.5, "reference": "mine-1"}, key=KEY),
        await boss.post(f"{money}/allocate", {"user_id": boss.user_id, "credits": 1_000}, key=KEY),
        await boss.post(f"/api/v1/org/{org}/invite", {"email": mate.email}, key=KEY),
        await boss.post(f"/api/v1/org/{org}/invite", {"email": "expected@example.com"}),
        await boss.post(f"{money}/allocate", {"user_id": mate.user_id, "credits": 50}),
        await admin.post("/v1/admin/grants", {**granted, "notes": "mine-2"}, key=KEY),
        await boss.post("/api/v1/credits/deduct", {"credits": 2, "reference": "mine-3"}, key=KEY),
        await boss.post("/v1/chat/completions", CHAT, key=KEY),
        await boss.post("/api/v1/holds", {"credits": 40, "reference": "mine-4"}, key=KEY),
        *[
            await boss.post(
                "/api/v1/settings/byok-keys", {"provider": p, "api_key": f"sk-of-the-victim-{p}"}
            )
            for p in ("openrouter", "openai")
        ],
    ]
    assert [d.status < 300 for d in done] == [True] * len(done), [d.json for d in done]
    held = next(d["hold_id"] for d in done if d.json and "hold_id" in d.json)
    spent = next(d["entry_id"] for d in done if d.json and "entry_id" in d.json)
    return Victim(boss, org, held, spent, mate)


async def stranger(town: Town) -> Person:
    """Make somebody else, who is the admin of another org and rich."""
    eve = await town.rich(100)
    org = await town.org(eve, 1_000)
    mine = {"user_id": eve.user_id, "credits": 500}
    assert (await eve.post(f"/api/v1/credits/organization/{org}/allocate", mine)).status == 200
    return eve


async def called(person: Person, route: str, whom: Victim, **more: Any) -> Reply:
    method, path = route.split()
    case = CASES[route]
    headers = {**case.headers, **more.pop("headers", {})}
    return await person.call(
        method, whom.filled(path + case.query), whom.filled(case.body), headers=headers, **more
    )


@dataclass(slots=True)
class Guard:
    """Watches what is the victim's, to the last row."""

    owner: asyncpg.Connection
    whom: Victim
    accounts: set[int]
    before: Counter[tuple[str, str]]

    @classmethod
    async def of(cls, owner: asyncpg.Connection, whom: Victim) -> Guard:
        subjects = [f"user:{whom.person.user_id}", f"user:{whom.mate.user_id}", f"org:{whom.org}"]
        rows = await owner.fetch(
            "SELECT account_id FROM subjects WHERE subject = ANY ($1)", subjects
        )
        accounts = {r["account_id"] for r in rows}
        members = await owner.fetch(
            "SELECT account_id FROM members WHERE org_id = ANY ($1)", list(accounts)
        )
        accounts |= {r["account_id"] for r in members}
        return cls(owner, whom, accounts, await everything(owner))

    async def changes(self) -> list[tuple[str, str]]:
        """Give what was changed, taken or added of the victim's."""
        after = await everything(self.owner)
        moved = (self.before - after) + (after - self.before)
        return [found for found in moved if self._is_theirs(*found)]

    def _is_theirs(self, table: str, text: str) -> bool:
        row = json.loads(text)
        names = ["account_id", "user_id", "org_id", "payer_id"]
        names += ["id"] if table.endswith(".accounts") else []
        numbers = {row.get(n) for n in names if isinstance(row.get(n), int)}
        told = (s in text for s in (*self.whom.secrets, self.whom.hold))
        return bool(numbers & self.accounts) or any(told)


@pytest.fixture
async def owner(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database_url, timeout=10)
    yield connection
    await connection.close()


def test_every_route_has_a_case() -> None:
    assert sorted(CASES) == sorted(routes())


async def test_a_case_is_answered_to_whom_it_concerns(here: Street) -> None:
    """Or the refusals below would say nothing."""
    whom, admin = await victim(here), await here.admin()
    for route in IN_ORDER:
        person = admin if route in for_admins() else whom.person
        reply = await called(person, route, whom, key="another key")
        assert reply.status == CASES[route].own, (route, reply.json)


async def test_every_unsafe_call_that_is_repeated_with_its_key_is_answered_the_same(
    here: Street, owner: asyncpg.Connection
) -> None:
    """And moves no row: nothing is done twice, and nothing is logged twice."""
    whom, admin = await victim(here), await here.admin()
    for route in [r for r in IN_ORDER if r.split()[0] in UNSAFE and r not in EXEMPT]:
        person = admin if route in for_admins() else whom.person
        first = await called(person, route, whom, key="once")
        before = await everything(owner)
        again = await called(person, route, whom, key="once")
        if route.endswith("/chat/completions"):
            assert again.problem == (409, "conflict"), "answers of models are not kept"
        else:
            assert (again.status, lasting(again)) == (first.status, lasting(first)), route
        assert await everything(owner) == before, route


def lasting(reply: Reply) -> Any:
    """Leave out what says that it is a repeat."""
    return {k: v for k, v in (reply.json or {}).items() if k != "repeated"}


@pytest.mark.parametrize("token", [None, "not.a.token"], ids=["no token", "a bad token"])
async def test_without_a_good_token_no_route_answers_or_moves_anything(
    here: Street, owner: asyncpg.Connection, token: str | None
) -> None:
    whom = await victim(here)
    before = await everything(owner)
    for route in guarded():
        reply = await called(Person(here.http, token), route, whom, key=KEY)
        assert reply.problem == (401, "unauthenticated"), route
    assert await everything(owner) == before


async def test_a_stranger_sees_and_moves_nothing_of_the_victims_on_any_route(
    here: Street, owner: asyncpg.Connection
) -> None:
    whom, eve = await victim(here), await stranger(here)
    watch = await Guard.of(owner, whom)
    for route in IN_ORDER:
        case = CASES[route]
        reply = await called(eve, route, whom, key=KEY)
        if case.stranger is None:
            assert reply.status == case.own, (route, reply.json)
        else:
            assert reply.problem == case.stranger, (route, reply.json)
        if route == "POST /api/v1/holds/batch":
            assert {r["reason"] for r in reply["results"]} == {"unknown_hold"}
        said = reply.text + str(dict(reply.headers))
        assert [s for s in whom.secrets if s in said] == [], (route, said)
    assert await watch.changes() == []


async def test_a_stranger_cannot_call_for_the_victims_org(
    here: Street, owner: asyncpg.Connection
) -> None:
    whom, eve = await victim(here), await stranger(here)
    watch = await Guard.of(owner, whom)
    for route in for_an_org():
        for org in (whom.org, f"org:{whom.org}", NOBODY_ID, "", f"user:{whom.person.user_id}"):
            key = f"{KEY} {org}."
            reply = await called(eve, route, whom, key=key, headers={"X-Faregate-Org": org})
            if route == "POST /api/v1/holds/batch":  # of the victim's holds: no org is asked for
                assert {r["reason"] for r in reply["results"]} == {"unknown_hold"}
            else:
                assert reply.problem == (403, "not_a_member"), (route, org)
    asked = {"operations": [{"op": "reserve", "credits": 1}]}
    (refused,) = (await eve.post("/api/v1/holds/batch", asked, org=whom.org))["results"]
    assert (refused["status"], refused["reason"]) == (403, "not_a_member")
    assert await watch.changes() == []


async def test_only_platform_admins_use_the_routes_for_them(
    here: Street, owner: asyncpg.Connection
) -> None:
    whom = await victim(here)
    before = await everything(owner)
    for route in for_admins():
        reply = await called(whom.person, route, whom, key=KEY)
        assert reply.problem == (403, "forbidden"), route
    assert await everything(owner) == before


async def test_a_member_does_not_do_what_admins_of_the_org_do(here: Street) -> None:
    whom = await victim(here)
    for route in (
        "POST /api/v1/org/{org_id}/invite",
        f"POST {ORG_CREDITS}/purchase",
        f"POST {ORG_CREDITS}/allocate",
        f"GET {ORG_CREDITS}/usage-attribution",
    ):
        assert (await called(whom.mate, route, whom)).problem == (403, "forbidden"), route
    assert (await called(whom.mate, "GET /api/v1/org/{org_id}", whom))["members"] is None


async def test_a_member_has_no_hand_on_the_holds_keys_and_usage_of_another(
    here: Street, owner: asyncpg.Connection
) -> None:
    whom = await victim(here)
    before = await everything(owner)
    for route in ("POST /api/v1/holds/{hold_id}/settle", "POST /api/v1/holds/{hold_id}/release"):
        for org in (None, whom.org):
            refused = await called(whom.mate, route, whom, org=org)
            assert refused.problem == (404, "unknown_hold"), (route, org)
    delete = "DELETE /api/v1/settings/byok-keys/{provider}"
    assert (await called(whom.mate, delete, whom)).problem == (404, "not_found")
    assert (await whom.mate.get("/api/v1/settings/byok-keys"))["keys"] == []
    used = await whom.mate.get("/api/v1/usage/current")
    assert (used["credits_used"], used["api_calls_used"]) == (0, 0)
    mine = await whom.mate.get(whom.filled(f"{ORG_CREDITS}/my-allocation"))
    assert mine.json == {"allocated": 50, "used": 0, "remaining": 50}
    assert await everything(owner) == before


async def test_whoever_is_removed_from_an_org_is_out_with_their_next_call(here: Street) -> None:
    whom = await victim(here)
    spend = {"credits": 1, "reference": "r"}
    assert (await whom.mate.post("/api/v1/credits/deduct", spend, org=whom.org)).status == 200
    user = f"user:{whom.mate.user_id}"
    await acts.set_member(here.store, f"org:{whom.org}", user, "removed", actor="t", key="out")
    refused = await whom.mate.post("/api/v1/credits/deduct", spend, org=whom.org)
    assert refused.problem == (403, "not_a_member")


async def test_members_see_only_what_they_used_of_the_org(here: Street) -> None:
    whom = await victim(here)
    await whom.mate.post("/api/v1/credits/deduct", {"credits": 2, "reference": "m"})
    seen = await whom.mate.get("/api/v1/credits/transactions", org=whom.org)
    assert [t["amount"] for t in seen["transactions"]] == [-2]
    all_of_it = await whom.person.get("/api/v1/credits/transactions", org=whom.org)
    assert len(all_of_it["transactions"]) > 3


async def test_the_org_of_a_call_is_said_when_there_are_several(here: Street) -> None:
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
