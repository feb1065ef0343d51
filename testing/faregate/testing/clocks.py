"""`clock`: time of an installation under test, which is its database's; it only goes forward."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg

from faregate.testing.patience import patient

_POLL_S = 0.05
_ADVANCE = "UPDATE test_clock SET ahead = ahead + make_interval(secs => $1) RETURNING ahead"
_AHEAD = "SELECT ahead FROM test_clock"
_DUE = """
SELECT (SELECT count(*) FROM pipelines
        WHERE state IN ('live', 'closing') AND expires_at <= statement_timestamp()) AS holds,
       (SELECT count(*) FROM accounts WHERE due_at <= statement_timestamp()) AS accounts"""


class StillDue(AssertionError):
    """The sweeper has not done in time what fell due."""


class Clock:
    """Moves the time that every process of this installation goes by.

    Expiry of grants and holds, renewal of tiers, quotas and prices follow it. What reads the time
    of the machine does not: a service under test that sets `occurred_at` itself.
    """

    def __init__(self, database: str) -> None:
        """Move the time of a database that the kit has made; the URL is its owner's."""
        self._database = database
        self.ahead = timedelta(0)
        """How far it is ahead of the machine's time."""

    @property
    def reads(self) -> Callable[[], datetime]:
        """Give what tells the time without asking the database."""
        return lambda: datetime.now(UTC) + self.ahead

    async def now(self) -> datetime:
        """Ask the database what time it is."""
        now: datetime = await self._fetch("SELECT clock_timestamp()")
        return now

    async def advance(
        self,
        *,
        days: float = 0,
        hours: float = 0,
        minutes: float = 0,
        seconds: float = 0,
        settle: bool = True,
        within_s: float = 20.0,
    ) -> datetime:
        """Let time pass, and wait until the sweeper has done what fell due. Gives the new time.

        `settle=False` does not wait. Raises StillDue.
        """
        step = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
        if step < timedelta(0):
            raise ValueError("time only goes forward")
        self.ahead = await self._fetch(_ADVANCE, step.total_seconds())
        if settle:
            await self._settle(within_s)
        return await self.now()

    async def _settle(self, within_s: float) -> None:
        within_s = patient(within_s)
        connection = await asyncpg.connect(self._database, timeout=patient(10))
        try:
            async with asyncio.timeout(within_s):
                while True:
                    due = await connection.fetchrow(_DUE)
                    if not any(due):
                        return
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            raise StillDue(
                f"after {within_s:g} s still due: {due['holds']} holds, {due['accounts']} "
                "accounts; is the sweeper running?"
            ) from None
        finally:
            connection.terminate()

    async def _fetch(self, query: str, *values: object) -> Any:
        connection = await asyncpg.connect(self._database, timeout=patient(10))
        try:
            return await connection.fetchval(query, *values)
        finally:
            connection.terminate()
