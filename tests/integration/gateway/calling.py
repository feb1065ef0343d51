"""A gateway in a test, and people who call it: `await ada.post("/api/v1/org", {"name": "Acme"})`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import asyncpg
import httpx

from faregate.gateway.app import create_app
from faregate.gateway.context import FraudCases, Gateway
from faregate.gateway.dead_letters import DeadLetters, LetterNotFound, Page
from faregate.gateway.server import make_gateway
from faregate.gateway.settings import GatewaySettings
from faregate.ledger import acts
from faregate.ledger.store import Store

PASSWORD = "correct horse battery"
_numbers = count(1)


@dataclass(slots=True)
class Reply:
    """An answer: status, JSON (None where there is none), headers."""

    status: int
    json: Any
    headers: Mapping[str, str]
    text: str = ""

    def __getitem__(self, name: str) -> Any:
        return self.json[name]

    @property
    def problem(self) -> tuple[int, str]:
        """Status and reason of a problem, whose form is checked."""
        assert self.headers["content-type"] == "application/problem+json", self.json
        for name in ("type", "title", "status", "detail", "reason", "help"):
            assert self.json[name], f"{name} is missing: {self.json}"
        assert self.json["status"] == self.status
        return self.status, self.json["reason"]


@dataclass(slots=True)
class Person:
    """Somebody who calls, with their token."""

    http: httpx.AsyncClient
    token: str | None = None
    user_id: str = ""
    email: str = ""
    org: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        key: str | None = None,
        org: str | None = None,
        raw: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """Call; `raw` is a body as it is."""
        sent = dict(self.headers)
        if self.token:
            sent["Authorization"] = f"Bearer {self.token}"
        if key:
            sent["Idempotency-Key"] = key
        if org or self.org:
            sent["X-Faregate-Org"] = str(org or self.org)
        content = raw if raw is not None else None if body is None else json.dumps(body).encode()
        if content is not None:
            sent["Content-Type"] = "application/json"
        sent.update(headers or {})
        raw_headers = [(n.encode(), v.encode("latin-1")) for n, v in sent.items()]
        answer = await self.http.request(method, path, content=content, headers=raw_headers)
        is_json = "json" in answer.headers.get("content-type", "")
        found = answer.json() if is_json else None
        return Reply(answer.status_code, found, answer.headers, answer.text)

    async def get(self, path: str, **more: Any) -> Reply:
        return await self.call("GET", path, **more)

    async def post(self, path: str, body: Any = None, **more: Any) -> Reply:
        return await self.call("POST", path, body, **more)

    async def put(self, path: str, body: Any = None, **more: Any) -> Reply:
        return await self.call("PUT", path, body, **more)


@dataclass(slots=True)
class Town:
    """A gateway and everybody who calls it."""

    gateway: Gateway
    http: httpx.AsyncClient

    @property
    def store(self) -> Store:
        return self.gateway.store

    @property
    def nobody(self) -> Person:
        return Person(self.http)

    async def person(self, email: str | None = None, **more: Any) -> Person:
        """Register somebody over HTTP."""
        email = email or f"user{next(_numbers)}@example.com"
        made = await self.nobody.post(
            "/auth/register", {"email": email, "password": PASSWORD, **more}
        )
        assert made.status == 201, made.json
        return Person(self.http, made["access_token"], made["user_id"], email)

    async def admin(self, email: str | None = None) -> Person:
        """Make a platform admin, and sign them in."""
        person = await self.person(email)
        await self.store.pool.execute(
            "UPDATE users SET is_admin = true WHERE user_id = $1", person.user_id
        )
        signed_in = await self.nobody.post(
            "/api/auth/login", {"email": person.email, "password": PASSWORD}
        )
        person.token = signed_in["access_token"]
        return person

    async def rich(self, credits_: float, email: str | None = None) -> Person:
        """Register somebody who has so many credits."""
        person = await self.person(email)
        await self.set_balance(f"user:{person.user_id}", credits_)
        return person

    async def set_balance(self, subject: str, credits_: float) -> None:
        await acts.set_balance(
            self.store,
            subject,
            round(credits_ * 1_000_000),
            actor="test",
            key=f"set {next(_numbers)}",
        )

    async def org(self, admin: Person, credits_: float = 0) -> str:
        """Make an org over HTTP, with credits bought for it."""
        made = await admin.post("/api/v1/org", {"name": "Acme"})
        assert made.status == 201, made.json
        if credits_:
            bought = await admin.post(
                f"/api/v1/credits/organization/{made['org_id']}/purchase", {"credits": credits_}
            )
            assert bought.status == 200, bought.json
        return str(made["org_id"])

    async def member(self, admin: Person, org: str, allocated: float = 0) -> Person:
        """Invite somebody new to an org, and allocate to them."""
        person = await self.person()
        invited = await admin.post(f"/api/v1/org/{org}/invite", {"email": person.email})
        assert (invited.status, invited["status"]) == (201, "member"), invited.json
        if allocated:
            done = await admin.post(
                f"/api/v1/credits/organization/{org}/allocate",
                {"user_id": person.user_id, "credits": allocated},
            )
            assert done.status == 200, done.json
        return person

    async def balance(self, person: Person) -> Any:
        """Give what somebody has left, as they see it."""
        return (await person.get("/api/v1/credits/balance"))["credits_remaining"]


async def all_fine() -> Mapping[str, Any]:
    """A probe that finds everything in order."""
    return {"kafka": {"ok": True}, "database": {"ok": True}, "lag": {"ok": True}}


class NoLetters:
    """Dead letter queues that are empty, for tests without a Kafka."""

    async def page(self, *_: Any) -> Page:
        return Page([], None)

    async def show(self, letter_id: str) -> dict[str, Any]:
        raise LetterNotFound(f"there is no {letter_id}")

    async def replay(self, letter_id: str) -> dict[str, Any]:
        raise LetterNotFound(f"there is no {letter_id}")


NO_LETTERS = NoLetters()


async def no_cases() -> Mapping[str, dict[str, Any]]:
    """Give the suspicions of fraud, for tests without a Kafka: none."""
    return {}


@asynccontextmanager
async def town(
    store: Store,
    dead_letters: DeadLetters | None = NO_LETTERS,
    *,
    fraud_cases: FraudCases | None = None,
    **settings: Any,
) -> AsyncIterator[Town]:
    """Run a gateway in this process, called without a network."""
    gateway = make_gateway(store, GatewaySettings(**settings), all_fine, dead_letters)
    gateway.fraud_cases = fraud_cases or gateway.fraud_cases
    transport = httpx.ASGITransport(create_app(gateway), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway.test") as http:
        yield Town(gateway, http)
    await gateway.store.close()


async def everything(owner: asyncpg.Connection) -> Counter[tuple[str, str]]:
    """Read every row of every table."""
    tables = await owner.fetch(
        """SELECT format('%I.%I', schemaname, tablename) AS name FROM pg_tables
        WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"""
    )
    found: Counter[tuple[str, str]] = Counter()
    for (name,) in tables:
        rows = await owner.fetch(f"SELECT to_jsonb(t)::text AS row FROM {name} t")
        found.update((name, row["row"]) for row in rows)
    return found
