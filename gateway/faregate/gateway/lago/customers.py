"""Whoever registers becomes a customer in Lago, where an API key is set.

https://getlago.com/docs/api-reference/customers/create: `POST /api/v1/customers` makes a customer or
updates the one with the same `external_id`, so sending it again is harmless. What is to be made is
a row first, and sent in the background until Lago has taken it: registering waits for the row only,
and a process that ends in between leaves it to the next one.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import asyncpg
import httpx
import structlog

from faregate.gateway.lago.settings import LagoSettings
from faregate.gateway.metrics import Metrics

log = structlog.get_logger("faregate.gateway")

_LONGEST_S = 600.0
_REFUSED = frozenset({400, 413, 422})
"""Lago will never take it as it is; everything else may be mended."""

_WANT = "INSERT INTO lago_customers (subject) VALUES ($1) ON CONFLICT DO NOTHING"
# Whoever takes a row puts its next try off first, so no second process takes it meanwhile.
_TAKE = """
UPDATE lago_customers SET tries = tries + 1,
    next_try_at = clock_timestamp() + least($1::interval * (2 ^ least(tries, 20)), $2::interval)
WHERE subject = (SELECT subject FROM lago_customers
                 WHERE status = 'wanted' AND next_try_at <= clock_timestamp()
                 ORDER BY next_try_at LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING subject"""
_DONE = "UPDATE lago_customers SET status = $2 WHERE subject = $1"
_NEXT = "SELECT min(next_try_at) - clock_timestamp() FROM lago_customers WHERE status = 'wanted'"
_USER = "SELECT email, name FROM users WHERE user_id = $1"
_ORG = "SELECT NULL AS email, name FROM org_names WHERE org_id = $1"


class Customers:
    """Makes customers in Lago."""

    def __init__(self, pool: asyncpg.Pool, settings: LagoSettings, metrics: Metrics) -> None:
        self._pool = pool
        self._settings = settings
        self._metrics = metrics
        self._task: asyncio.Task[None] | None = None
        self._again = asyncio.Event()
        self._http: httpx.AsyncClient | None = None

    async def want(self, subject: str) -> None:
        """Have a customer made for an account, soon and once; nothing without an API key.

        Raises the driver's errors.
        """
        if self._settings.api_key is not None:
            await self._pool.execute(_WANT, subject)
            self.wake()

    def wake(self) -> None:
        """Send what is waiting; also what a process that has ended left behind."""
        if self._settings.api_key is None:
            return
        self._again.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop; what is waiting stays for the next process."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._http is not None:
            await self._http.aclose()

    async def _run(self) -> None:
        while True:
            self._again.clear()
            try:
                while subject := await self._pool.fetchval(_TAKE, *self._waits()):
                    await self._make(subject)
                pause = await self._pool.fetchval(_NEXT)
            except Exception as error:  # noqa: BLE001 - the database is away: later
                log.warning("lago_customers_wait", error=type(error).__name__)
                pause = timedelta(seconds=self._settings.retry_s)
            if pause is None and not self._again.is_set():
                return
            try:
                async with asyncio.timeout(max(pause.total_seconds(), 0) if pause else 0):
                    await self._again.wait()
            except TimeoutError:
                continue

    def _waits(self) -> tuple[timedelta, timedelta]:
        return timedelta(seconds=self._settings.retry_s), timedelta(seconds=_LONGEST_S)

    async def _make(self, subject: str) -> None:
        """Send one customer. Raises the driver's errors."""
        kind, _, name = subject.partition(":")
        row = await self._pool.fetchrow(_USER if kind == "user" else _ORG, name)
        try:
            answer = await self._client().post(
                "/api/v1/customers", json={"customer": _customer(subject, row)}
            )
        except httpx.HTTPError as error:
            self._said("failed", error=type(error).__name__)
            return
        if answer.is_success:
            await self._pool.execute(_DONE, subject, "made")
            self._said("made")
        elif answer.status_code in _REFUSED:
            await self._pool.execute(_DONE, subject, "refused")
            self._said("refused", status=answer.status_code)
        else:
            self._said("failed", status=answer.status_code)

    def _said(self, result: str, **more: Any) -> None:
        self._metrics.lago_customers.labels(result).inc()
        tell = log.info if result == "made" else log.warning
        tell("lago_customer", result=result, **more)

    def _client(self) -> httpx.AsyncClient:
        if self._http is None:
            key = self._settings.api_key.get_secret_value() if self._settings.api_key else ""
            self._http = httpx.AsyncClient(
                base_url=self._settings.api_url.rstrip("/"),
                headers={"Authorization": f"Bearer {key}"},
                timeout=self._settings.api_timeout_s,
                follow_redirects=False,
            )
        return self._http


def _customer(subject: str, row: asyncpg.Record | None) -> dict[str, Any]:
    """Give what Lago is told: the id that its webhooks will name, and who that is."""
    told = {"external_id": subject, **(dict(row) if row else {})}
    return {name: value for name, value in told.items() if value is not None}
