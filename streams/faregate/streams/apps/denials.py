"""`denials`: how often each account is denied, and spikes against its own baseline."""

import time
from datetime import UTC, datetime
from typing import Any

from faregate.events import DenialRateV1, DenialSpikeV1, Event, PipelineDeniedV1, routing_subject
from faregate.streams.apps.base import Stream, span
from faregate.streams.options import Options
from faregate.streams.rules import denials as rules


def make(options: Options, partitions: int) -> Stream:
    """Make the application."""
    stream = Stream("denials", options, partitions)
    return _Denials(stream).stream


class _Denials:
    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self._size = stream.options.denial_window_s
        self._at = 0.0
        # Of an account: the start of its newest window, and the baseline before that.
        self._accounts = stream.table("accounts")
        self._windows = stream.tumbling("windows", self._size, lambda: self._at)
        self._touched: set[tuple[str, float]] = set()
        app = stream.app
        app.agent(stream.source("pipeline.denied"), name="denials")(self._agent)
        app.timer(interval=stream.options.every_s)(self._tick)

    async def _agent(self, records: Any) -> None:
        async for event in records.events():
            read = self.stream.reader.read(event.message, PipelineDeniedV1)
            if read is not None:
                await self._take(*read, event.message.timestamp)

    async def _take(self, event: Event, denied: PipelineDeniedV1, arrived: float) -> None:
        account = routing_subject(denied)
        self._at = event.time.timestamp() if event.time else arrived
        start = self._at // self._size * self._size
        before = self._windows[account][span(start, self._size)]
        identity = rules.short_id(event.source, event.id)
        pipeline = denied.pipeline or " > ".join(denied.phases)
        window = rules.counted(before, identity, denied.reason, pipeline)
        if window is before:
            return
        baseline = self._baseline(account, start)
        options = self.stream.options
        factor = rules.spike(
            window["n"], baseline, factor=options.spike_factor, least=options.spike_least
        )
        if factor is not None and not window["spiked"]:
            window["spiked"] = True
            signal = DenialSpikeV1(**self._fields(account, start, window, baseline), factor=factor)
            await self.stream.say(signal, account, start, at=datetime.fromtimestamp(self._at, UTC))
        self._windows[account] = window
        self._touched.add((account, start))

    def _baseline(self, account: str, start: float) -> float:
        """Give the average of the windows before, and move on to a newer window."""
        known = self._accounts.get(account)
        if known is None:
            self._accounts[account] = [start, 0.0]
            return 0.0
        newest, average = known
        if start <= newest:  # a late one is measured by what is usual now
            return float(average)
        last = self._windows[account][span(newest, self._size)]
        empty = round((start - newest) / self._size) - 1
        average = rules.baseline_after(average, last["n"] if last else 0, empty)
        self._accounts[account] = [start, average]
        return average

    def _fields(
        self, account: str, start: float, window: dict[str, Any], baseline: float
    ) -> dict[str, Any]:
        return {
            "account": account,
            "window_start": datetime.fromtimestamp(start, UTC),
            "window_end": datetime.fromtimestamp(start + self._size, UTC),
            "denials": window["n"],
            "reasons": window["reasons"],
            "pipelines": window["pipelines"],
            "baseline": baseline,
        }

    async def _tick(self) -> None:
        """Publish the windows that changed."""
        touched, self._touched = self._touched, set()
        for account, start in sorted(touched):
            window = self._windows[account][span(start, self._size)]
            known = self._accounts.get(account)
            if window and known:
                signal = DenialRateV1(**self._fields(account, start, window, known[1]))
                at = datetime.fromtimestamp(time.time(), UTC)
                await self.stream.say(signal, account, start, window["n"], at=at)
