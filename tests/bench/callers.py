"""Who calls the gateway: tokens as its embedded identity issues them, and the requests they send.

The callers' accounts are those of the lane: u0, u1, … with a balance and a live hold each.
"""

from __future__ import annotations

import asyncio
import base64
import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from uuid import uuid4

from tests.bench.client import HOST, Client, request
from tests.bench.lane import Lane, Running, module, open_lane_store, started

from faregate.gateway.identity import signing
from faregate.gateway.identity.embedded import AUDIENCE, ISSUER
from faregate.gateway.identity.tokens import issue
from faregate.ledger import acts

ORG = "org:bench"
CHAT = "/v1/chat/completions"
PASSWORD = "a long enough password"
PROVIDER = "openrouter"
BATCH = 100
_PRICE = 1
_PLENTY = 10**14
_MASTER_KEY = base64.b64encode(secrets.token_bytes(32)).decode()
"""The same in all rounds, for the keys that are stored."""
_ANY_PORT = {"FAREGATE_GATEWAY_PORT": "0", "FAREGATE_GATEWAY_SIGN_INS_PER_MINUTE": "100000"}


async def tokens(lane: Lane, users: Sequence[str]) -> list[str]:
    """Issue a token to each user, signed with the key of the lane's gateways."""
    async with open_lane_store(lane.database, size=1) as store:
        kid, key = await signing.newest_key(store.pool)
    now = int(time.time())
    claims = {"iss": ISSUER, "aud": AUDIENCE, "iat": now, "exp": now + 3600}
    return [issue(key, kid, {**claims, "sub": user}) for user in users]


async def make_members(lane: Lane, users: Sequence[str]) -> None:
    """Make an org with credits, and let these users spend them."""
    async with open_lane_store(lane.database) as store:
        await acts.set_policy(store, ORG, "allocated", actor="bench", key="policy")
        await acts.set_balance(store, ORG, _PLENTY, actor="bench", key="balance")
        for user in users:
            share = _PLENTY // 1000
            await acts.allocate(store, ORG, f"user:{user}", share, actor="bench", key=user)


@asynccontextmanager
async def gateway(lane: Lane, settings: Mapping[str, str] | None = None) -> AsyncIterator[Client]:
    """Run the real gateway process; give a client of it."""
    wanted = {**_ANY_PORT, **(settings or {})}
    async with (
        started(lane, "gateway", settings=wanted) as (process,),
        Client(await _port(process)) as client,
    ):
        yield client


@asynccontextmanager
async def other(lane: Lane, name: str) -> AsyncIterator[Client]:
    """Run a module of this package that serves HTTP; give a client of it."""
    async with module(lane, name, _ANY_PORT) as process, Client(await _port(process)) as client:
        yield client


async def _port(process: Running) -> int:
    return int((await process.line("gateway_started"))["port"])


def with_upstream(port: int) -> dict[str, str]:
    """Give the settings of a gateway whose models, users' own keys too, answer at `port`."""
    url = f"http://{HOST}:{port}/v1"
    return {
        "FAREGATE_LLM_BASE_URL": url,
        "FAREGATE_BYOK_OPENROUTER_BASE_URL": url,
        "FAREGATE_MASTER_KEY": _MASTER_KEY,
    }


async def warm(client: Client, tokens_: Sequence[str]) -> None:
    """Let every caller call once: their tokens are verified, their names known."""
    asked = [check(token) for token in tokens_]
    for start in range(0, len(asked), BATCH):
        await asyncio.gather(*map(client.call, asked[start : start + BATCH]))


def check(token: str) -> bytes:
    """Ask whether a credit is covered."""
    return request("POST", "/api/credits/check", token, {"credits": _PRICE})


def deduct(token: str) -> bytes:
    """Deduct a credit; each is a call of its own, as its reference says."""
    body = {"credits": _PRICE, "reference": uuid4().hex}
    return request("POST", "/api/v1/credits/deduct", token, body, _unique())


def reserve(token: str) -> bytes:
    """Hold a credit."""
    body = {"credits": _PRICE, "reference": uuid4().hex}
    return request("POST", "/api/v1/holds", token, body, _unique())


def settle(token: str, hold_id: str) -> bytes:
    """Charge a hold."""
    path = f"/api/v1/holds/{hold_id}/settle"
    return request("POST", path, token, {"credits": _PRICE}, _unique())


def reserve_many(token: str) -> bytes:
    """Hold a credit so many times in one call."""
    return _batch(token, [{"op": "reserve", "credits": _PRICE}] * BATCH)


def settle_many(token: str, hold_ids: Sequence[str]) -> bytes:
    """Charge many holds in one call."""
    operation = {"op": "settle", "credits": _PRICE}
    return _batch(token, [{**operation, "hold_id": hold_id} for hold_id in hold_ids])


def _batch(token: str, operations: Sequence[Mapping[str, object]]) -> bytes:
    body = {"operations": operations}
    return request("POST", "/api/v1/holds/batch", token, body, _unique())


def chat(token: str, *, own_key: bool = False) -> bytes:
    """Call a model, with platform credits or with the caller's own key."""
    messages = [{"role": "user", "content": "Say hello."}]
    body = {"model": "gpt-3.5-turbo", "messages": messages, "max_tokens": 50}
    return request("POST", CHAT, token, body, {"X-BYOK-Provider": PROVIDER} if own_key else {})


def put_key(token: str) -> bytes:
    """Store a key of one's own."""
    body = {"provider": PROVIDER, "api_key": f"sk-{uuid4().hex}"}
    return request("POST", "/api/v1/settings/byok-keys", token, body)


def register(email: str) -> bytes:
    """Register."""
    return request("POST", "/auth/register", None, {"email": email, "password": PASSWORD})


def sign_in(email: str) -> bytes:
    """Sign in."""
    return request("POST", "/api/auth/login", None, {"email": email, "password": PASSWORD})


def _unique() -> dict[str, str]:
    return {"Idempotency-Key": uuid4().hex}
