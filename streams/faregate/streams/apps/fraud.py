"""`fraud`: unusual registrations, trials drained at once, rings of referrals. It blocks nobody.

Registrations are keyed by user; what is counted are domains, campaigns and referrers. So each one
is sent on to an internal topic under those keys, and the second agent keeps the counts there. Who
sent whom is walked user by user over the same topic: each step is a message to the next user's
partition, since no worker has all of them.
"""

import json
import time
from datetime import UTC, datetime
from typing import Any

import structlog

from faregate.events import (
    Event,
    FraudSuspectedV1,
    LedgerEntryData,
    UserRegisteredV1,
    parse_signed_credits,
    to_credits,
)
from faregate.streams.apps.base import Stream, span
from faregate.streams.internal import links_topic
from faregate.streams.options import Options
from faregate.streams.rules import fraud as rules
from faregate.streams.rules.denials import short_id

log = structlog.get_logger("faregate.streams")

_AHEAD_S = 300.0
"""A registration from further ahead than this is taken for now: other programs' clocks."""


def make(options: Options, partitions: int) -> Stream:
    """Make the application."""
    stream = Stream("fraud", options, partitions)
    return _Fraud(stream).stream


class _Fraud:
    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self._at = 0.0
        self._groups = stream.tumbling("groups", rules.HOUR, lambda: self._at)
        self._senders = stream.table("senders")
        self._trials = stream.table("trials")
        app = stream.app
        self._links = stream.internal(links_topic(stream.options.prefix))
        app.agent(stream.source("users.registered"), name="fraud-registrations")(self._registered)
        app.agent(self._links, name="fraud-links")(self._linked)
        app.agent(stream.source("credits.ledger"), name="fraud-trials")(self._ledger)

    async def _registered(self, records: Any) -> None:
        async for event in records.events():
            read = self.stream.reader.read(event.message, UserRegisteredV1)
            if read is not None:
                await self._send_on(*read, event.message.timestamp)

    async def _send_on(self, event: Event, data: UserRegisteredV1, arrived: float) -> None:
        at = min(event.time.timestamp(), arrived + _AHEAD_S) if event.time else arrived
        user = f"user:{data.user_id}"
        said = {"id": short_id(event.source, event.id), "user": user, "at": at}
        domain = rules.domain_of(data.email)
        if domain and domain not in self.stream.options.fraud_common_domains:
            await self._link(f"domain:{domain}", {"joined": said})
        if data.referral:
            await self._link(f"referral:{data.referral}", {"joined": said})
        sender = rules.user_of(data.referral)
        if sender is not None and sender != user:
            await self._link(user, {"sender": sender, "at": at})

    async def _link(self, key: str, value: dict[str, Any]) -> None:
        await self._links.send(key=key.encode(), value=value)

    async def _linked(self, records: Any) -> None:
        async for event in records.events():
            key, value = event.message.key.decode(), json.loads(event.message.value)
            if "joined" in value:
                await self._joined(key, value["joined"])
            elif "sender" in value:
                self._senders[key] = value["sender"]
                await self._walk([key], value["at"])
            else:
                await self._walk(value["path"], value["at"])

    async def _joined(self, group: str, said: dict[str, Any]) -> None:
        self._at = float(said["at"])
        start = self._at // rules.HOUR * rules.HOUR
        before = self._groups[group][span(start, rules.HOUR)]
        after = rules.joined(before, said["id"], said["user"])
        if after is before:
            return
        limit = self.stream.options.fraud_registrations
        if rules.is_worth_saying(after["n"], limit):
            case = rules.case_id("many_registrations", group, start)
            await self._suspect(
                "many_registrations", case, group, after["n"], after["users"], start,
                start + rules.HOUR, limit,
            )  # fmt: skip
        self._groups[group] = after

    async def _walk(self, path: list[str], at: float) -> None:
        ring, further = rules.ring(path, self._senders.get(path[-1]))
        if further is not None:
            await self._link(further[-1], {"path": further, "at": at})
        if ring is not None:
            first = min(ring)
            turned = ring[ring.index(first) :] + ring[: ring.index(first)]
            case = rules.case_id("referral_ring", *turned)
            await self._suspect(
                "referral_ring", case, first, len(turned), turned, at, at, rules.LONGEST_RING
            )

    async def _ledger(self, records: Any) -> None:
        async for event in records.events():
            read = self.stream.reader.read(event.message, LedgerEntryData)
            if read is not None and read[1].account.startswith("user:"):
                await self._entry(read[1])

    async def _entry(self, entry: LedgerEntryData) -> None:
        account, at = entry.account, entry.at.timestamp()
        options = self.stream.options
        if entry.kind == "purchase" and entry.reason == "welcome":
            known = self._trials.get(account)
            is_news = at > time.time() - options.fraud_drain_s - 86_400
            if is_news and (known is None or known[3] < entry.sequence):
                granted = parse_signed_credits(entry.amount)
                self._trials[account] = rules.began(entry.sequence, granted, at)
            return
        trial = self._trials.get(account) if entry.kind == "usage" else None
        if trial is None:
            return
        charged = -parse_signed_credits(entry.amount)
        after, drained = rules.spent(
            trial,
            entry.sequence,
            charged,
            at,
            within_s=options.fraud_drain_s,
            percent=options.fraud_drain_percent,
        )
        if drained and after is not None:
            case = rules.case_id("trial_drained", account, trial[1])
            await self._suspect(
                "trial_drained", case, account, 1, [account], trial[1], at,
                options.fraud_drain_s, to_credits(after[2]),
            )  # fmt: skip
        if after is None:
            self._trials.pop(account)
        elif after != trial:
            self._trials[account] = after

    async def _suspect(
        self,
        rule: str,
        case: str,
        account: str,
        count: int,
        users: list[str],
        start: float,
        end: float,
        limit: float,
        credits_: float | None = None,
    ) -> None:
        signal = FraudSuspectedV1(
            case_id=case,
            rule=rule,  # type: ignore[arg-type]
            account=account,
            count=count,
            users=users[-rules.LISTED :],
            window_start=datetime.fromtimestamp(start, UTC),
            window_end=datetime.fromtimestamp(end, UTC),
            limit=limit,
            credits=credits_,
        )
        await self.stream.say(signal, case, count, at=datetime.fromtimestamp(end, UTC))
