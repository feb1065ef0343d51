"""Nasty values in every field of every call: refused as documented, never a fault of ours."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.routing import APIRoute
from tests.integration.gateway.calling import Person, Town
from tests.integration.gateway.test_tenants import GOOD, Victim, victim

from faregate.gateway.app import RESOURCES, bare_app
from faregate.gateway.openapi import document
from faregate.gateway.settings import GatewaySettings

pytestmark = pytest.mark.stack

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
    "POST /v1/admin/refunds": {"usage_id": None, "source": None, "reason": None},
    "POST /api/v1/credits/deduct": {"model": None, "tokens": None, "description": "d"},
    "POST /api/v1/holds": {"ttl_s": 5, "max_tokens": None, "model": None},
    "POST /api/v1/holds/{hold_id}/settle": {"tokens": None, "final": True, "model": None},
}


def calls() -> list[str]:
    found = [r for one in RESOURCES for r in one.router.routes if isinstance(r, APIRoute)]
    return [
        f"{min(r.methods or ())} {r.path}"
        for r in found
        if f"{min(r.methods or ())} {r.path}" in KNOWN
    ]


KNOWN = {route for route, call in GOOD.items() if call.body is not None} | MORE.keys()
DOCUMENTED = {
    f"{method.upper()} {path}": {int(status) for status in operation["responses"]}
    for path, methods in document(bare_app(GatewaySettings()))["paths"].items()
    for method, operation in methods.items()
}


def bodies(route: str, whom: Victim) -> Iterator[bytes]:
    """A good body with one nasty value in it, or instead of it."""
    good = whom.filled({**(GOOD[route].body if route in GOOD else {}), **MORE.get(route, {})})
    for nasty in NASTY:
        yield nasty
        for name in good:
            rest = {n: v for n, v in good.items() if n != name and v is not None}
            text = json.dumps(rest).encode()[1:-1]
            comma = b", " if rest else b""
            yield b"{" + text + comma + json.dumps(name).encode() + b": " + nasty + b"}"


@pytest.mark.parametrize("route", sorted(KNOWN))
async def test_a_call_with_a_nasty_value_is_answered_as_documented(here: Town, route: str) -> None:
    whom = await victim(here)
    admin = await here.admin()
    method, path = route.split()
    for raw in bodies(route, whom):
        reply = await admin.call(method, whom.filled(path), raw=raw)
        assert reply.status in DOCUMENTED[route], (raw, reply.status, reply.json)
        if reply.status >= 400:
            assert reply.problem[0] == reply.status


@pytest.mark.parametrize(
    "nasty", ["%00", "%ff", "..", "%2e%2e%2f", "x" * 300, "%E2%80%AE", "' OR 1=1"]
)
async def test_a_nasty_value_in_a_path_is_answered_as_documented(here: Town, nasty: str) -> None:
    whom = await victim(here)
    admin = await here.admin()
    for route, documented in DOCUMENTED.items():
        method, path = route.split()
        if "{" not in path:
            continue
        filled = path.replace("{org_id}", nasty).replace("{hold_id}", nasty)
        filled = filled.replace("{provider}", nasty).replace("{letter_id}", nasty)
        body = whom.filled(GOOD[route].body) if route in GOOD else None
        for person in (admin, whom.person):
            reply = await person.call(method, filled, body)
            assert reply.status in documented | {404, 405}, (route, reply.status, reply.json)


@pytest.mark.parametrize(
    "query",
    ["limit=1e9", "limit=%00", "cursor=-1", "cursor=99999999999999999999", "from=%00", "to=0000"],
)
async def test_a_nasty_value_in_a_query_is_answered_as_documented(here: Town, query: str) -> None:
    admin: Person = await here.admin()
    for route, documented in DOCUMENTED.items():
        method, path = route.split()
        if method == "GET" and "{" not in path and path != "/metrics":
            reply = await admin.get(f"{path}?{query}")
            assert reply.status in documented, (route, reply.status, reply.json)
