"""A whole installation to be fuzzed: real processes, people of each kind, ids that mean something."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from tests.helpers.processes import Supervisor, faregate_processes
from tests.helpers.servers import Stack
from tests.helpers.world import World, world
from tests.integration.gateway.calling import PASSWORD, Person
from tests.integration.gateway.provider import (
    DONE,
    Call,
    Provider,
    chunk,
    last,
    provider,
    stream,
    usage,
    whole,
)

from faregate.gateway.byok.providers import PROVIDERS
from faregate.ledger.verify import verify

_ANSWERS = re.compile(
    r'faregate_http_answers_total{method="(\w+)",route="(.+)",status="(\d+)"} (\S+)'
)
DOCUMENT = Path(__file__).parents[2] / "schemas" / "openapi.json"
PROCESSES = ("gateway", "relay", "sweeper", "provisioning")
KINDS = ("nobody", "user", "owner", "admin")
"""Who calls: without a token, an ordinary user, the admin of an org, a platform admin."""

KAFKAS = '"logger": "aiokafka'
"""What the client of Kafka says before it tries again."""


@dataclass(slots=True)
class Place:
    """A running installation. `known` are values by what they name: orgs, users, holds, …"""

    url: str
    procs: Supervisor
    world: World
    people: Mapping[str, Person]
    known: Mapping[str, list[Any]]
    document: str
    """`schemas/openapi.json`, as it was when the processes were started."""

    async def answered(self) -> dict[str, Counter[int]]:
        """Count the answers of each route by status, as the gateway's own metrics have them."""
        found: dict[str, Counter[int]] = {}
        for line in (await self.people["nobody"].get("/metrics")).text.splitlines():
            if counted := _ANSWERS.match(line):
                method, route, status, count = counted.groups()
                found.setdefault(f"{method} {route}", Counter())[int(status)] += int(float(count))
        return found

    async def faults(self) -> list[str]:
        """Give what went wrong inside: faults in logs, processes that ended, a ledger that drifts."""
        found = [f"{name} has ended" for name in PROCESSES if name not in self.procs.pids()]
        for name in PROCESSES:
            lines = self.procs.log(name).splitlines()
            found += [line for line in lines if '"level": "error"' in line and KAFKAS not in line]
        report = await verify(self.world.pool)
        return found + [str(finding) for finding in report.findings]


@asynccontextmanager
async def place(stack: Stack, database: str) -> AsyncIterator[Place]:
    """Run an installation on a migrated database, with an upstream that answers everything."""
    async with world(stack.kafka, database) as made, provider() as behind:
        _answer_all(behind)
        urls = {f"byok_{name}_base_url": behind.url for name in PROVIDERS}
        env = made.environment(
            provisioning="auto",
            gateway_port="0",
            gateway_token_ttl_s="86400",
            gateway_sign_ins_per_minute="100000",
            llm_base_url=behind.url,
            llm_timeout_s="20",
            master_key=base64.b64encode(bytes(range(32))).decode(),
            **urls,
        )
        document = DOCUMENT.read_text("utf-8")
        async with faregate_processes(env, *PROCESSES) as procs:
            lines = [json.loads(x) for x in procs.log("gateway").splitlines() if x[:1] == "{"]
            port = next(x["port"] for x in lines if x["event"] == "gateway_started")
            url = f"http://127.0.0.1:{port}"
            async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as http:
                people, known = await _settle_in(made, http)
                yield Place(url, procs, made, people, known, document)


def _answer_all(behind: Provider) -> None:
    streamed = stream(chunk("Hel"), chunk("lo"), last(), usage(7, 2), DONE)

    async def answer(call: Call, writer: asyncio.StreamWriter) -> None:
        behind.calls.clear()  # they are many, and nobody asks
        await (streamed if call.body.get("stream") else whole())(call, writer)

    behind.answer = answer


async def _settle_in(
    made: World, http: httpx.AsyncClient
) -> tuple[dict[str, Person], dict[str, list[Any]]]:
    """Make people who own something: credits, an org, an allocation, a key, holds."""
    people = {"nobody": Person(http)}
    for kind in KINDS[1:]:
        email = f"{kind}@example.com"
        new = await people["nobody"].post("/auth/register", {"email": email, "password": PASSWORD})
        assert new.status == 201, new.json
        people[kind] = Person(http, new["access_token"], new["user_id"], email)
    admin, owner, user = people["admin"], people["owner"], people["user"]
    await made.pool.execute("UPDATE users SET is_admin = true WHERE user_id = $1", admin.user_id)
    signed_in = await admin.post("/api/auth/login", {"email": admin.email, "password": PASSWORD})
    admin.token = signed_in["access_token"]
    org = str((await owner.post("/api/v1/org", {"name": "Acme"}))["org_id"])
    rich = {"subject_type": "user", "subject_id": user.user_id, "balance": 900_000}
    money = f"/api/v1/credits/organization/{org}"
    mine = {"user_id": owner.user_id, "credits": 800_000}
    key = {"provider": "openrouter", "api_key": "sk-or-v1-of-somebody"}
    holds = []
    for person, path, body in (
        (admin, "/v1/admin/credits/set", rich),
        (owner, f"{money}/purchase", {"credits": 900_000}),
        (owner, f"{money}/allocate", mine),
        (owner, f"/api/v1/org/{org}/invite", {"email": user.email}),
        (owner, f"{money}/allocate", {"user_id": user.user_id, "credits": 800_000}),
        (owner, "/api/v1/settings/byok-keys", key),
        (user, "/api/v1/settings/byok-keys", key),
        *((person, "/api/v1/holds", {"credits": 10}) for person in (user, owner) * 5),
    ):
        done = await person.post(path, body)
        assert done.status < 300, (path, done.json)
        holds += [str(done["hold_id"])] if path == "/api/v1/holds" else []
    spent = await user.post("/api/v1/credits/deduct", {"credits": 3, "reference": "r"})
    known: dict[str, list[Any]] = {
        "amounts": [1, 0.5, 12.25, 0.000001, 999_999_999.999999],
        "entries": [spent["entry_id"]],
        "orgs": [org],
        "users": [p.user_id for p in people.values() if p.user_id] + ["bob"],
        "holds": holds,
        "emails": [p.email for p in people.values() if p.email] + ["new@example.com"],
        "passwords": [PASSWORD],
        "models": ["gpt-3.5-turbo", "gpt-4o-mini", "gpt-4"],
        "providers": ["openrouter", "openai"],
        "tiers": ["starter", "enterprise"],
        "times": ["2026-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "9999-12-31T23:59:59.999999Z"],
        "nasty": ["\x00", "a\x00b", "\u202e", "\xe9", " ", "%00", "'; DROP TABLE x; --", "x" * 201],
    }
    return people, known
