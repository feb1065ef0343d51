"""Lago's webhooks on the gateway as it is run: settings, a real socket, facts on Kafka."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from joserfc.jwk import RSAKey
from tests.helpers.lago import ORGANIZATION, body_of, by_jwt, invoice, subscription
from tests.helpers.lago import add_on as line
from tests.helpers.servers import Stack
from tests.helpers.world import World, world

from faregate.ledger import reading

pytestmark = pytest.mark.stack


@pytest.fixture
async def installed(stack: Stack, database_url: str) -> AsyncIterator[World]:
    async with world(stack.kafka, database_url) as made:
        yield made


async def test_what_lago_says_reaches_the_ledger_and_kafka(installed: World) -> None:
    key = RSAKey.generate_key(2048, private=True)
    settings = {
        "gateway_port": 0,
        "lago_signature": "jwt",
        "lago_public_key": key.as_pem(private=False).decode(),
        "lago_organization": ORGANIZATION,
        "lago_plans": {"pro-monthly": "professional"},
        "lago_add_ons": {"credits-100": 100},
    }
    told = [
        subscription("org:acme", "pro-monthly", name="x" * 30_000),
        invoice(
            "org:acme", [line("credits-100", "2.0"), *(line("other", "1.0") for _ in range(50))]
        ),
    ]
    async with installed.running("gateway", "relay", **settings) as started:
        url = f"http://127.0.0.1:{started['gateway'].port}"
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=20) as http:
            for payload in told:
                body = body_of(payload)
                signed = {**by_jwt(body, key), "Content-Type": "application/json"}
                for result in ("applied", "unchanged"):
                    answer = await http.post("/webhooks/lago", content=body, headers=signed)
                    assert (answer.status_code, answer.json()["result"]) == (200, result)
        await installed.settled()
    found = await reading.account(installed.store, "org:acme")
    assert (found["tier"], found["balance"]) == ("professional", 260)
    granted = [e.data for _, _, e in await installed.announced("credits.ledger")]
    reason = f"invoice:{told[1]['invoice']['lago_id']}"
    assert [(g["amount"], g["reason"]) for g in granted] == [(60, "tier_change"), (200, reason)]
