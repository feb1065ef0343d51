"""The proxy of one gateway process: its upstream, users' keys, and the calls under way."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import asyncpg
from starlette.responses import Response

from faregate.gateway.byok.providers import PROVIDERS, base_url
from faregate.gateway.byok.sealing import Unsealable, master_key
from faregate.gateway.byok.vault import Opened, Vault
from faregate.gateway.llm.exchange import Exchange
from faregate.gateway.llm.money import Fare
from faregate.gateway.llm.settings import LlmSettings
from faregate.gateway.llm.upstream import Target, Upstream
from faregate.gateway.problems import Problem, invalid

_CLOSING_S = 2.0
_CHECK_S = 10.0
_T = TypeVar("_T")


class Llm:
    """Makes calls. Raises ValueError for settings that cannot be used, without their secrets."""

    def __init__(self, pool: asyncpg.Pool, settings: LlmSettings) -> None:
        self.settings = settings
        keys = [k for k in (settings.master_key, settings.old_master_key) if k is not None]
        self.vault = Vault(pool, [master_key(k.get_secret_value()) for k in keys])
        self._base_url = base_url(settings.base_url, encrypted=False) if settings.base_url else None
        self._providers = {
            name: base_url(settings.byok_base_urls.get(name, known.base_url), encrypted=True)
            for name, known in PROVIDERS.items()
        }
        self._upstream: Upstream | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._exchanges: dict[asyncio.Task[None], Exchange] = {}

    @property
    def upstream(self) -> Upstream:
        """The client of upstreams, made with its first use."""
        if self._upstream is None:
            self._upstream = Upstream(self.settings.timeout_s)
        return self._upstream

    def wake(self) -> None:
        """Make ready to call, where anything can be called: the first caller need not wait."""
        if self._base_url is not None or not self.vault.is_locked:
            _ = self.upstream

    @property
    def ttl_s(self) -> float:
        """How long the hold of a call lives."""
        return self.settings.timeout_s + self.settings.hold_margin_s

    def platform(self) -> Target:
        """Give the upstream that platform credits pay for. Raises Problem `llm_not_configured`."""
        if self._base_url is None:
            raise Problem("llm_not_configured", "No upstream is set in this installation.")
        return Target(self._base_url, self.settings.api_key)

    async def own(self, owner: str, provider: str) -> tuple[Target, Opened]:
        """Give a provider with the caller's own key.

        Raises Problem: `validation_failed`, `byok_key_missing`, `byok_not_configured`.
        """
        place = self.place(provider)
        if self.vault.is_locked:
            raise Problem("byok_not_configured")
        try:
            opened = await self.vault.open(owner, provider)
        except Unsealable as error:
            raise Problem(
                "byok_not_configured", f"The stored key cannot be opened: {error}."
            ) from None
        if opened is None:
            raise Problem("byok_key_missing", f"You have stored no key of {provider}.")
        return Target(place, opened.key, provider), opened

    def place(self, provider: str) -> str:
        """Give a provider's address. Raises Problem for one that is not known."""
        if provider not in self._providers:
            known = ", ".join(sorted(self._providers))
            raise invalid("provider", f"must be one of {known}")
        return self._providers[provider]

    async def accepts(self, target: Target) -> bool:
        """Show a key to its provider. Raises Problem `upstream_error`."""
        path = PROVIDERS[str(target.provider)].check
        return await self.upstream.accepts(target, path, _CHECK_S)

    async def call(self, target: Target, fare: Fare) -> Response:
        """Make a call that was let in; it goes on when its caller does not wait for it."""
        exchange = Exchange(self.upstream, target, fare, self.settings.timeout_s)
        task = self.spawn(exchange.run())
        self._exchanges[task] = exchange
        task.add_done_callback(self._exchanges.pop)
        return await exchange.answered

    def spawn(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        """Start work that must be finished before the process ends."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        """End calls that are still under way: streams are charged, others released."""
        for task, exchange in tuple(self._exchanges.items()):
            if not exchange.leave():
                task.cancel()
        loop = asyncio.get_running_loop()
        until = loop.time() + _CLOSING_S
        while self._tasks and loop.time() < until:
            await asyncio.wait(tuple(self._tasks), timeout=until - loop.time())
        for task in tuple(self._tasks):
            task.cancel()
        if self._upstream is not None:
            await self._upstream.close()
