"""`reconcile`: whether what was announced adds up, entry by entry and with the checkpoints."""

import time
from datetime import UTC, datetime
from typing import Any

from aiokafka.errors import KafkaError

from faregate.events import (
    AccountSums,
    Event,
    LedgerCheckpointV1,
    LedgerEntryData,
    ReconcileAlertV1,
    parse_signed_credits,
    to_credits,
    topic_name,
)
from faregate.events.topics import DAY_MS, TOPICS
from faregate.streams.apps.base import Stream
from faregate.streams.options import Options
from faregate.streams.rules import reconcile as rules

LEDGER, CHECKPOINTS = "credits.ledger", "credits.checkpoints"
_NOT_ANNOUNCED = ("member:", "erased:")
"""Accounts whose entries are not announced, or not under that name."""
_LEDGER_KEPT_S = TOPICS[LEDGER].retention_ms / 1000 - DAY_MS / 1000


def make(options: Options, partitions: int) -> Stream:
    """Make the application."""
    stream = Stream("reconcile", options, partitions)
    return _Reconcile(stream).stream


class _Reconcile:
    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self._accounts = stream.table("accounts")
        self._waiting: set[str] = set()
        self._read_to: dict[int, int] = {}
        app = stream.app
        app.agent(stream.source(LEDGER), name="reconcile-ledger")(self._ledger)
        app.agent(stream.source(CHECKPOINTS), name="reconcile-checkpoints")(self._checkpoints)
        app.timer(interval=stream.options.every_s)(self._tick)
        self._accounts.on_recover(self._recovered)

    async def _recovered(self) -> None:
        """Find the checkpoints that waited before a restart, or at another worker."""
        self._read_to.clear()
        self._waiting = {account for account, state in self._accounts.items() if state["ahead"]}

    async def _ledger(self, records: Any) -> None:
        async for event in records.events():
            message = event.message
            read = self.stream.reader.read(message, LedgerEntryData)
            if read is not None:
                await self._entry(*read)
            self._read_to[message.partition] = message.offset + 1

    async def _checkpoints(self, records: Any) -> None:
        async for event in records.events():
            read = self.stream.reader.read(event.message, LedgerCheckpointV1)
            if read is not None:
                await self._checkpoint(*read, event.message.timestamp)

    async def _entry(self, event: Event, data: LedgerEntryData) -> None:
        old = self._accounts.get(data.account)
        entry = rules.Entry(
            data.sequence,
            rules.content_hash(data.to_data()),
            (_micro(data.amount), _micro(data.held_delta), _micro(data.debt_delta)),
            (_micro(data.balance), _micro(data.held), _micro(data.debt)),
        )
        new, findings = rules.entry(old, entry)
        await self._keep(data.account, old, new, findings, event, data.at)

    async def _checkpoint(self, event: Event, data: LedgerCheckpointV1, arrived: float) -> None:
        at = event.time.timestamp() if event.time else arrived
        if data.account.startswith(_NOT_ANNOUNCED) or at < time.time() - _LEDGER_KEPT_S:
            return
        old = self._accounts.get(data.account)
        sums = (_micro(data.balance), _micro(data.held), _micro(data.debt))
        new, findings = rules.checkpoint(old, data.sequence, sums, at)
        if new["ahead"]:
            self._waiting.add(data.account)
        await self._keep(data.account, old, new, findings, event, datetime.fromtimestamp(at, UTC))

    async def _keep(
        self,
        account: str,
        old: Any,
        new: Any,
        findings: list[rules.Finding],
        event: Event,
        at: datetime,
    ) -> None:
        # First said, then kept: who is killed in between says it again, with the same id.
        for finding in findings:
            await self._say(account, finding, event.id, at)
        if new is not old:
            self._accounts[account] = new

    async def _say(
        self, account: str, finding: rules.Finding, event_id: str | None, at: datetime
    ) -> None:
        signal = ReconcileAlertV1(
            account=account,
            problem=finding.problem,  # type: ignore[arg-type]
            sequence=finding.sequence,
            through=finding.through,
            expected=_sums(finding.expected),
            found=_sums(finding.found),
            event_id=event_id,
            at=at,
        )
        about = (account, finding.problem, finding.sequence, finding.found)
        await self.stream.say(signal, *about, at=at)

    async def _tick(self) -> None:
        """Say which checkpoints the announcements have not reached in time."""
        if not self._waiting or not await self._all_read():
            return  # what a checkpoint waits for may be in what is still to be read
        now = time.time()
        for account in list(self._waiting):
            state = self._accounts.get(account)
            ahead = state["ahead"] if state else []
            late = (
                rules.overdue(state, now - self.stream.options.reconcile_after_s) if ahead else []
            )
            for finding in late:
                await self._say(account, finding, None, datetime.fromtimestamp(now, UTC))
            if len(late) == len(ahead):
                self._waiting.discard(account)

    async def _all_read(self) -> bool:
        """Tell whether every entry that is in Kafka now has been taken in."""
        consumer = self.stream.app.consumer
        topic = topic_name(self.stream.options.prefix, LEDGER)
        ours = [tp for tp in consumer.assignment() if tp.topic == topic]
        try:
            ends = await consumer.highwaters(*ours)
            for tp in ours:
                read_to = self._read_to.get(tp.partition)
                if (await consumer.position(tp) if read_to is None else read_to) < ends[tp]:
                    return False
        except KafkaError:
            return False
        return bool(ours)


def _sums(sums: rules.Sums | None) -> AccountSums | None:
    if sums is None:
        return None
    balance, held, debt = map(to_credits, sums)
    return AccountSums(balance=balance, held=held, debt=debt)


def _micro(amount: float) -> int:
    return parse_signed_credits(amount)
