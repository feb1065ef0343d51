"""Nasty values in every field of every call: refused as documented, never a fault of ours."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from itertools import product
from typing import Any

import asyncpg
import pytest
from tests.helpers.routes import application
from tests.integration.gateway.llm_world import Street, street
from tests.integration.gateway.provider import whole
from tests.integration.gateway.test_tenants import CASES, Victim, victim

from faregate.gateway.openapi import document
from faregate.ledger.core import Rules
from faregate.ledger.store import open_store

pytestmark = [pytest.mark.stack, pytest.mark.timeout(400)]


@pytest.fixture
async def here(pool: asyncpg.Pool) -> AsyncIterator[Street]:
    async with street(await open_store(pool, Rules(provisioning="manual"))) as found:
        found.provider.answer = whole("Hello", usage=(7, 3))
        yield found


NASTY = (
    b"null",
    b"true",
    b"0",
    b"-1",
    b"1e999",
    b"1e-999",
    b"NaN",
    b"99999999999999999999999999",
    b"0.1234567",
    b'""',
    b'" "',
    b'"\\u0000"',
    b'"\\ud800"',
    b'"\\u202e"',
    b'"' + b"x" * 3_000 + b'"',
    b'"2025-13-45T00:00:00Z"',
    b'"9999-12-31T23:59:59.999999-23:59"',
    b'"9999-12-31T23:59:59.999999Z"',
    b'"0001-01-01T00:00:00Z"',
    b'"\'; DROP TABLE users; --"',
    b"[]",
    b"{}",
    b"[[[[]]]]",
    b'{"a": {"b": null}}',
)
MORE: dict[str, dict[str, Any]] = {
    "POST /auth/register": {
        "email": "x@example.com",
        "password": "long enough",
        "name": "X",
        "organization": "O",
        "referral": "user:a",
    },
    "POST /api/auth/login": {"email": "x@example.com", "password": "long enough"},
    "POST /api/credits/allocate": {
        "expiresAt": None,
        "expiryDays": None,
        "notes": "n",
        "kind": "k",
    },
    "POST /v1/admin/grants": {"priority": 1, "expires_at": None, "notes": "n", "kind": "bonus"},
    "POST /v1/admin/grants/revoke": {"reason": None},
    "POST /v1/admin/prices": {"effective_from": None, "backdate": None},
    "POST /v1/admin/refunds": {"usage_id": None, "source": None, "reason": None},
    "POST /api/v1/credits/deduct": {"model": None, "tokens": None, "description": "d"},
    "POST /api/v1/holds": {"ttl_s": 5, "max_tokens": None, "model": None},
    "POST /api/v1/holds/{hold_id}/settle": {"tokens": None, "final": True, "model": None},
    "POST /v1/chat/completions": {"max_tokens": 5, "n": 1, "stream": False},
}
KNOWN = {route for route, case in CASES.items() if case.body is not None} | MORE.keys()
DOCUMENT = document(application())
DOCUMENTED = {
    f"{method.upper()} {path}": {int(status) for status in operation["responses"]}
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
}


def bodies(route: str, whom: Victim) -> Iterator[bytes]:
    """A good body with one nasty value in it, or instead of it."""
    good = whom.filled({**CASES[route].body, **MORE.get(route, {})})
    for nasty in NASTY:
        yield nasty
        for name in good:
            rest = {n: v for n, v in good.items() if n != name and v is not None}
            text = json.dumps(rest).encode()[1:-1]
            comma = b", " if rest else b""
            yield b"{" + text + comma + json.dumps(name).encode() + b": " + nasty + b"}"


NO_NUMBER = (b"NaN", b"Infinity", b"-Infinity", b"1e400", b"-1e400", b"1e99999999999999999999",
             b"1" + b"0" * 30, b"1" * 5_000, b"0." + b"1" * 5_000, b"true", b'"1"', b"[1]")  # fmt: skip
NO_TEXT = (b'"long\\u0000enough"', b'"long\\ud800enough"', b'"long\x00enough"', b'"long\xffenough"')
ALONE = {"requiredCredits": ("credits",), "username": ("email",)}
"""Fields that do not count where another is sent."""


def fields(route: str) -> dict[str, set[str]]:
    """Give the JSON types of each field of a route's body, as the document says."""
    method, path = route.split()
    body = DOCUMENT["paths"][path][method.lower()]["requestBody"]["content"]["application/json"]
    name = body["schema"]["$ref"].rpartition("/")[2]
    found = DOCUMENT["components"]["schemas"][name]["properties"]
    return {
        field: {one.get("type", "") for one in schema.get("anyOf", [schema])}
        for field, schema in found.items()
    }


def bodies_of(route: str, good: dict[str, Any]) -> Iterator[bytes]:
    """A good body with one field that is no number, or no text; and one with a name twice."""
    for name, types in fields(route).items():
        nasty: tuple[bytes, ...] = NO_NUMBER if types & {"number", "integer"} else ()
        nasty += NO_TEXT if "string" in types else ()
        rest = {k: v for k, v in good.items() if k != name and k not in ALONE.get(name, ())}
        for value in nasty:
            yield _with(rest, name, value)
    first, *_ = good
    yield _with(good, first, json.dumps(good[first]).encode())


def _with(rest: dict[str, Any], name: str, value: bytes) -> bytes:
    pairs = [json.dumps({k: v}).encode()[1:-1] for k, v in rest.items()]
    return b"{" + b", ".join([*pairs, json.dumps(name).encode() + b": " + value]) + b"}"


async def test_what_is_no_number_or_no_text_is_refused_in_every_field(here: Street) -> None:
    whom, admin = await victim(here), await here.admin()
    for route in sorted(KNOWN):
        (method, path), case = route.split(), CASES[route]
        for raw in bodies_of(route, whom.filled(case.body)):
            reply = await admin.call(method, whom.filled(path), raw=raw, headers=case.headers)
            assert reply.problem == (400, "validation_failed"), (route, raw, reply.json)


@pytest.mark.parametrize("part", range(2))
async def test_a_call_with_a_nasty_value_is_answered_as_documented(here: Street, part: int) -> None:
    whom, admin = await victim(here), await here.admin()
    for route in sorted(KNOWN)[part::2]:
        method, path = route.split()
        for raw in bodies(route, whom):
            reply = await admin.call(method, whom.filled(path), raw=raw)
            assert reply.status in DOCUMENTED[route], (route, raw, reply.status, reply.json)
            if reply.status >= 400:
                assert reply.problem[0] == reply.status


NASTY_PATHS = ("%00", "%ff", "..", "%2e%2e%2f", "x" * 300, "%E2%80%AE", "' OR 1=1")


async def test_a_nasty_value_in_a_path_is_answered_as_documented(here: Street) -> None:
    whom, admin = await victim(here), await here.admin()
    within = [route for route in DOCUMENTED if "{" in route]
    for nasty, route in product(NASTY_PATHS, within):
        method, path = route.split()
        filled = path.replace("{org_id}", nasty).replace("{hold_id}", nasty)
        filled = filled.replace("{provider}", nasty).replace("{letter_id}", nasty)
        filled = filled.replace("{case_id}", nasty)
        body = whom.filled(CASES[route].body)
        for person in (admin, whom.person):
            reply = await person.call(method, filled, body)
            known = DOCUMENTED[route] | {404, 405}
            assert reply.status in known, (route, nasty, reply.status, reply.json)


NASTY_QUERIES = (
    "limit=1e9",
    "limit=%00",
    "cursor=-1",
    "cursor=99999999999999999999",
    "from=%00",
    "to=0000",
    "from=0001-01-01T00:00:00%2B23:59",
    "group_by=%00",
    "version=2147483648",
    "limit=1&limit=2",
)


async def test_a_nasty_value_in_a_query_is_answered_as_documented(here: Street) -> None:
    whom, admin = await victim(here), await here.admin()
    reading = [r for r in DOCUMENTED if r.startswith("GET ") and r != "GET /metrics"]
    for query, route in product(NASTY_QUERIES, reading):
        _, path = route.split()
        join = "&" if CASES[route].query else "?"
        reply = await admin.get(whom.filled(path + CASES[route].query) + join + query)
        assert reply.status in DOCUMENTED[route], (route, query, reply.status, reply.json)


NASTY_HEADERS = {
    "X-Faregate-Org": ("\x80", "\xff" * 300, "org:", "org:org:x", "a,b"),
    "Idempotency-Key": ("\x80", "a,b", "k" * 201),
    "X-BYOK-Provider": ("\x80", "", "x" * 51, "../"),
    "Authorization": (
        "Bearer",
        "Bearer \xff",
        "Bearer " + "a." * 3,
        "Basic eDp5",
        "Bearer a.b.c d",
    ),
    "Content-Type": ("", "text/json", "application/json; charset=utf-16", "a/b/c", "\xff"),
}


async def test_a_nasty_value_in_a_header_is_answered_as_documented(here: Street) -> None:
    whom = await victim(here)
    for (name, values), route in product(NASTY_HEADERS.items(), sorted(KNOWN)):
        method, path = route.split()
        for value in values:
            sent = {**CASES[route].headers, name: value}
            reply = await whom.person.call(
                method, whom.filled(path), whom.filled(CASES[route].body), headers=sent
            )
            assert reply.status in DOCUMENTED[route], (route, name, value, reply.json)
