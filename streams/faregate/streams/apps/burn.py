"""`burn`: how fast each account is charged, and when it would be empty."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from faregate.events import (
    BurnRateV1,
    LedgerEntryData,
    RunwayLowV1,
    parse_signed_credits,
    to_credits,
)
from faregate.streams.apps.base import Stream, span
from faregate.streams.options import Options
from faregate.streams.rules import burn as rules

_NEWS_S = 3600.0
"""An alert about something longer ago is no news: history is being read again."""


def make(options: Options, partitions: int) -> Stream:
    """Make the application."""
    stream = Stream("burn", options, partitions)
    return _Burn(stream).stream


class _Burn:
    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self._at = 0.0
        self._accounts = stream.table("accounts")
        self._windows = {
            size: stream.hopping(name, size, rules.STEPS[size], lambda: self._at)
            for name, size in (("minute", rules.MINUTE), ("hour", rules.HOUR), ("day", rules.DAY))
        }
        self._touched: set[str] = set()
        self._shapes: dict[str, tuple[bool, bool, bool]] = {}
        app = stream.app
        app.agent(stream.source("credits.ledger"), name="burn")(self._agent)
        app.timer(interval=stream.options.every_s)(self._tick)

    async def _agent(self, records: Any) -> None:
        async for event in records.events():
            read = self.stream.reader.read(event.message, LedgerEntryData)
            if read is not None:
                await self._take(read[1])

    async def _take(self, entry: LedgerEntryData) -> None:
        account, self._at = entry.account, entry.at.timestamp()
        known = self._accounts.get(account)
        charged = _micro(entry.debt_delta) - _micro(entry.amount)
        recent = self._at > time.time() - 2 * rules.DAY
        if entry.kind == "usage" and charged > 0 and recent:
            for table in self._windows.values():
                table[account].apply(rules.counted, (charged, entry.sequence))
        if known is not None and entry.sequence <= known[0]:
            return
        available = _micro(entry.available)
        alerted = known[2] if known else False
        rates = self._rates(account, self._at) if recent else rules.Rates(0, 0, 0)
        runway = rules.runway_s(available, rates.hour)
        threshold = self.stream.options.runway_alert_s
        say, alerted = rules.alert(runway, threshold, alerted=alerted)
        self._accounts[account] = [entry.sequence, available, alerted]
        self._touched.add(account)
        if say and runway is not None and self._at > time.time() - _NEWS_S:
            low = RunwayLowV1(
                account=account,
                per_hour=to_credits(rates.hour),
                available=to_credits(available),
                runway_s=runway,
                threshold_s=threshold,
                sequence=entry.sequence,
                at=entry.at,
            )
            await self.stream.say(low, account, entry.sequence, at=entry.at)

    def _rates(self, account: str, now: float) -> rules.Rates:
        def of(size: int) -> int:
            table = self._windows[size]
            window: Sequence[int] = table[account][span(rules.fullest(now, size), size)] or ()
            return rules.rate(window, now, size)

        return rules.Rates(of(rules.MINUTE), of(rules.HOUR), of(rules.DAY))

    async def _tick(self) -> None:
        """Publish the rates that changed: there was an entry, or one of them has become nothing."""
        now = time.time()
        touched, self._touched = self._touched, set()
        for account in touched | self._shapes.keys():
            known = self._accounts.get(account)
            if known is None:  # its partition went to another worker
                self._shapes.pop(account, None)
                continue
            rates = self._rates(account, now)
            shape = rates.shape()
            if account not in touched and shape == self._shapes.get(account):
                continue
            if any(shape):
                self._shapes[account] = shape
            else:
                self._shapes.pop(account, None)
            await self._publish(account, known[0], known[1], rates, now)

    async def _publish(
        self, account: str, sequence: int, available: int, rates: rules.Rates, now: float
    ) -> None:
        at = datetime.fromtimestamp(now, UTC)
        signal = BurnRateV1(
            account=account,
            per_minute=to_credits(rates.minute),
            per_hour=to_credits(rates.hour),
            per_day=to_credits(rates.day),
            available=to_credits(available),
            runway_s=rules.runway_s(available, rates.hour),
            sequence=sequence,
            at=at,
        )
        await self.stream.say(signal, account, sequence, now, at=at)


def _micro(amount: float) -> int:
    return parse_signed_credits(amount)
