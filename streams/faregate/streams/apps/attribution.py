"""`attribution`: who and what each org is charged for, live and at the end of each hour and day."""

import time
from datetime import UTC, datetime
from typing import Any

from faregate.events import (
    AttributionV1,
    LedgerEntryData,
    SpendingShare,
    parse_signed_credits,
    to_credits,
)
from faregate.streams.apps.base import Stream, span
from faregate.streams.options import Options
from faregate.streams.rules import attribution as rules

_RECENT_S = 2 * 86_400.0


def make(options: Options, partitions: int) -> Stream:
    """Make the application."""
    stream = Stream("attribution", options, partitions)
    return _Attribution(stream).stream


class _Attribution:
    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self._at = 0.0
        # Of an org: the start of the newest hour and day in which it was charged.
        self._accounts = stream.table("accounts")
        self._windows = {
            name: stream.tumbling(name, size, lambda: self._at)
            for name, size in rules.SIZES.items()
        }
        self._touched: set[tuple[str, str, int]] = set()
        self._open: set[tuple[str, str, int]] = set()
        app = stream.app
        app.agent(stream.source("credits.ledger"), name="attribution")(self._agent)
        app.timer(interval=stream.options.every_s)(self._tick)
        self._accounts.on_recover(self._recovered)

    async def _recovered(self) -> None:
        """Find the windows that were open before a restart, or at another worker."""
        self._open = {
            (account, window, start)
            for account, starts in self._accounts.items()
            for window, start in starts.items()
        }

    async def _agent(self, records: Any) -> None:
        async for event in records.events():
            read = self.stream.reader.read(event.message, LedgerEntryData)
            if read is not None:
                self._take(read[1])

    def _take(self, entry: LedgerEntryData) -> None:
        self._at = entry.at.timestamp()
        micro = _charged(entry)
        old = self._at < time.time() - _RECENT_S
        if micro is None or old or not entry.account.startswith("org:"):
            return
        names = {"users": entry.user_id, "models": entry.model, "phases": entry.phase}
        starts = {}
        for window, table in self._windows.items():
            start = rules.start_of(self._at, window)
            before = table[entry.account][span(start, rules.SIZES[window])]
            after = rules.counted(before, entry.sequence, micro, names)
            if after is not before:
                table[entry.account] = after
            starts[window] = start
            self._touched.add((entry.account, window, start))
        self._open |= {(entry.account, window, start) for window, start in starts.items()}
        known = self._accounts.get(entry.account) or starts
        newest = {window: max(start, known[window]) for window, start in starts.items()}
        if self._accounts.get(entry.account) != newest:
            self._accounts[entry.account] = newest

    async def _tick(self) -> None:
        """Publish the windows that changed, and those that are over."""
        now = time.time()
        touched, self._touched = self._touched, set()
        closing = {key for key in self._open if self._is_over(key, now)}
        self._open -= closing
        for key in sorted(touched | closing):
            account, window, start = key
            found = self._windows[window][account][span(start, rules.SIZES[window])]
            if found:
                signal = self._signal(account, window, start, found, closed=self._is_over(key, now))
                about = (account, window, start, found["seq"], signal.closed)
                await self.stream.say(signal, *about, at=datetime.fromtimestamp(now, UTC))

    def _is_over(self, key: tuple[str, str, int], now: float) -> bool:
        _, window, start = key
        return now >= start + rules.SIZES[window] + self.stream.options.close_after_s

    def _signal(
        self, account: str, window: str, start: int, found: rules.Window, *, closed: bool
    ) -> AttributionV1:
        most = self.stream.options.top_names
        listed: dict[str, Any] = {}
        for dimension in rules.DIMENSIONS:
            shares, rest = rules.top(found[dimension], most)
            listed[dimension] = [
                SpendingShare(name=name, credits=to_credits(micro), events=n)
                for name, micro, n in shares
            ]
            listed[f"other_{dimension}"] = to_credits(rest)
        return AttributionV1(
            account=account,
            window=window,  # type: ignore[arg-type]
            window_start=datetime.fromtimestamp(start, UTC),
            window_end=datetime.fromtimestamp(start + rules.SIZES[window], UTC),
            closed=closed,
            total=to_credits(found["total"]),
            events=found["n"],
            sequence=found["seq"],
            **listed,
        )


def _charged(entry: LedgerEntryData) -> int | None:
    """Give what an entry charged in micro-credits; None where it is no usage."""
    if entry.kind != "usage":
        return None
    return parse_signed_credits(entry.debt_delta) - parse_signed_credits(entry.amount)
