"""A gateway that listens, with a provider behind it: what streams and cut connections need."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from pydantic import SecretStr
from tests.integration.gateway.calling import NO_LETTERS, Person, Town, all_fine, no_cases
from tests.integration.gateway.provider import Provider, provider

from faregate.gateway.llm.settings import LlmSettings
from faregate.gateway.server import GatewayProcess, make_gateway
from faregate.gateway.settings import GatewaySettings
from faregate.ledger.store import Store

CHAT = "/v1/chat/completions"
UPSTREAM_KEY = "sk-platform-key-that-nobody-sees"
MASTER_KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
HELLO = [{"role": "user", "content": "Say hello."}]


@dataclass(slots=True)
class Street(Town):
    """A town whose gateway has an address."""

    url: str = ""
    provider: Provider = None  # type: ignore[assignment]

    async def chat(self, person: Person, model: str = "gpt-3.5-turbo", **more: Any) -> Any:
        """Ask a model."""
        headers = more.pop("headers", None)
        body = {"model": model, "messages": HELLO, **more}
        return await person.post(CHAT, body, headers=headers)

    async def held(self, person: Person) -> Any:
        return (await person.get("/api/v1/credits/balance"))["held"]

    async def newest(self, person: Person) -> Any:
        """Give somebody's newest usage entry."""
        entries = (await person.get("/api/v1/credits/transactions"))["transactions"]
        return next(e for e in entries if e["transaction_type"] == "usage")

    async def at_rest(self, person: Person) -> float:
        """Wait until nothing is held, and give what is left."""
        for _ in range(200):
            if not await self.held(person):
                return float(await self.balance(person))
            await asyncio.sleep(0.05)
        raise AssertionError("a hold was left behind")


@asynccontextmanager
async def street(
    store: Store, llm: dict[str, Any] | None = None, **settings: Any
) -> AsyncIterator[Street]:
    """Run a gateway on a free port, and a provider."""
    async with provider() as behind:
        places = {"openrouter": behind.url, "openai": behind.url}
        chosen: dict[str, Any] = {
            "base_url": behind.url,
            "api_key": SecretStr(UPSTREAM_KEY),
            "byok_base_urls": places,
            "master_key": SecretStr(MASTER_KEY),
            **(llm or {}),
        }
        made = GatewaySettings(
            port=0, sign_ins_per_minute=10_000, llm=LlmSettings(**chosen), **settings
        )
        gateway = make_gateway(store, made, all_fine, NO_LETTERS, no_cases)
        process = GatewayProcess(gateway)
        running = asyncio.create_task(process.run())
        url = f"http://127.0.0.1:{process.port}"
        try:
            async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as http:
                while not process._server.started:
                    await asyncio.sleep(0.01)
                yield Street(gateway, http, url, behind)
        finally:
            process.stop()
            await running


def frames(text: str) -> list[Any]:
    """Read a stream as its client does: what is after `data:`, as JSON where it is."""
    found = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in found]


def text_of(found: list[Any]) -> str:
    """Put the text of a stream together."""
    return "".join(
        choice["delta"].get("content") or ""
        for frame in found
        if isinstance(frame, dict)
        for choice in frame.get("choices", [])
    )
