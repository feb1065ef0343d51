"""`expect_event` and `expect_no_event`: what must be announced, and what must not."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from time import monotonic
from typing import Any, TypeVar, overload

from faregate.events import EventData
from faregate.testing.ledgers import Ledger
from faregate.testing.matching import check_fields, event_type, matches, near_misses
from faregate.testing.patience import patient
from faregate.testing.progress import Progress
from faregate.testing.publishing import Published

WITHIN_S = 10.0
PROCESSED_WITHIN_S = 30.0

Data = TypeVar("Data", bound=EventData)


class EventMissing(AssertionError):
    """An event that was expected did not come in time."""


class EventUnexpected(AssertionError):
    """An event came that must not."""


class Expectations:
    """Looks for events among everything heard since the test began.

    So the order of action and expectation does not matter. Each event is returned once: the next
    expectation with the same words means the next event.
    """

    def __init__(self, progress: Progress, ledger: Ledger) -> None:
        self._ear = progress.ear
        self._progress = progress
        self._ledger = ledger

    @overload
    async def event(self, type_: type[Data], within_s: float = WITHIN_S, **fields: Any) -> Data: ...
    @overload
    async def event(self, type_: str, within_s: float = WITHIN_S, **fields: Any) -> Any: ...
    async def event(
        self, type_: type[EventData] | str, within_s: float = WITHIN_S, **fields: Any
    ) -> Any:
        """Wait for an event of this type with these fields and give its data.

        A field's value may be a function: `required_credits=lambda c: c > 40`. Raises EventMissing
        with what came instead, each consumer's lag and the newest ledger entries.
        """
        __tracebackhide__ = True
        model = event_type(type_)
        check_fields(model, fields)
        within_s = patient(within_s)
        end = monotonic() + within_s
        async with self._ear.changed:
            while (found := self._find(model, fields)) is None:
                self._ear.check()
                left = end - monotonic()
                if left <= 0:
                    break
                try:
                    await asyncio.wait_for(self._ear.changed.wait(), left)
                except TimeoutError:
                    continue
        if found is None:
            raise EventMissing(await self._report(model, fields, within_s))
        return found

    async def no_event(
        self,
        type_: type[EventData] | str,
        *,
        after: Published | None = None,
        within_s: float = PROCESSED_WITHIN_S,
        **fields: Any,
    ) -> None:
        """Make sure that no such event came, once Faregate has processed `after`.

        `after` is what `publish` gave; without it, everything on the topics now, whoever sent it.
        Nothing sleeps: it waits until the marker is processed, announced and heard. An event that
        an expectation has returned does not count. Raises EventUnexpected, or NotProcessed when
        the marker is not reached within `within_s`.
        """
        __tracebackhide__ = True
        model = event_type(type_)
        check_fields(model, fields)
        ends = await self._progress.ends() if after is None else after.ends
        await self._progress.reached(ends, within_s)
        found = self._find(model, fields)
        if found is not None:
            raise EventUnexpected(f"this must not have come: {found!r}")

    def _find(self, model: type[EventData], fields: Mapping[str, Any]) -> EventData | None:
        for heard in self._ear.heard:
            if matches(heard, model, fields):
                heard.taken = True
                return heard.data
        return None

    async def _report(
        self, model: type[EventData], fields: Mapping[str, Any], within_s: float
    ) -> str:
        wanted = ", ".join(f"{n}={v!r}" for n, v in fields.items())
        parts = [f"no {model.__name__}({wanted}) came within {within_s:g} s", "Near misses:"]
        parts += _indented(near_misses(self._ear.heard, model, fields, monotonic()))
        parts.append("Lag (records that each consumer has still to process):")
        try:
            lag, waiting = await self._progress.lag(), await self._progress.unannounced()
            parts += _indented([", ".join(f"{name} {count}" for name, count in lag.items())])
            parts += _indented([f"transactions decided, not announced yet: {waiting}"])
            parts.append("Newest ledger entries of this test:")
            parts += _indented(await self._ledger.newest())
        except Exception as error:  # noqa: BLE001 - a report says what it can
            parts += _indented([f"cannot be read: {error!r}"])
        return "\n".join(parts)


def _indented(lines: list[str]) -> list[str]:
    return [f"  {line}" for line in lines]
