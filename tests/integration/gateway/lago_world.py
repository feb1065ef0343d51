"""A gateway that takes messages of Lago, and what they did to the ledger."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from pydantic import SecretStr
from tests.helpers.lago import HMAC_KEY, body_of, by_hmac
from tests.integration.gateway.calling import Person, Reply, Town, town

from faregate.gateway.lago.settings import LagoSettings
from faregate.ledger import reading
from faregate.ledger.store import Store

SETTINGS: dict[str, Any] = {
    "hmac_key": SecretStr(HMAC_KEY),
    "plans": {"pro-monthly": "professional", "support": ""},
    "add_ons": {"credits-100": 100_000_000},
    "wallet_credit_micro": 2_000_000,
}


class Office:
    """Where Lago sends its messages: `await office.send(subscription("user:ada", "starter"))`."""

    def __init__(self, here: Town) -> None:
        self.town = here
        self.nobody: Person = here.nobody

    @property
    def store(self) -> Store:
        return self.town.store

    async def send(self, payload: Any, **more: str) -> Reply:
        """Send a message with a good signature; its unique key is a new one each time."""
        body = body_of(payload)
        signed = {**by_hmac(body), **more}
        return await self.nobody.post("/webhooks/lago", raw=body, headers=signed)

    async def did(self, payload: Any) -> tuple[str, str | None]:
        """Send a message that must be taken; give what it did."""
        reply = await self.send(payload)
        assert reply.status == 200, reply.json
        return reply["result"], reply["reason"]

    async def account(self, subject: str) -> tuple[str, Any]:
        """Give an account's tier and balance."""
        found = await reading.account(self.store, subject)
        return found["tier"], found["balance"]

    async def kinds(self, subject: str) -> list[str]:
        """Give the kinds of an account's entries."""
        rows = await self.store.pool.fetch(
            """SELECT e.kind FROM entries e JOIN subjects s ON s.account_id = e.account_id
            WHERE s.subject = $1 ORDER BY e.sequence""",
            subject,
        )
        return [row["kind"] for row in rows]


@asynccontextmanager
async def office(
    store: Store, *, identity_webhook_secret: str | None = None, **settings: Any
) -> AsyncIterator[Office]:
    """Run a gateway that knows Lago."""
    secret = SecretStr(identity_webhook_secret) if identity_webhook_secret else None
    lago = LagoSettings(**{**SETTINGS, **settings})
    async with town(
        store,
        sign_ins_per_minute=1000,
        lago=lago,
        identity_webhook_secret=secret,
    ) as here:
        try:
            yield Office(here)
        finally:
            await here.gateway.lago.close()
