"""`faregate streams` as a real process, what it is fed with, and what it says."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic, sleep
from typing import Any
from uuid import uuid4

from tests.helpers.kafka import CONTENT_TYPE, Raw, read_all, send, structured

from faregate.events import TOPIC_OF_TYPE, Event, apply_topics, decode
from faregate.runtime.supervisor import die_with_parent
from faregate.testing.topics import delete_topics

READY_S = 40.0


@dataclass(slots=True)
class Worker:
    """One process; `home` is where its state is, `log` what it has logged."""

    env: dict[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self, *names: str) -> None:
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "faregate.runtime", "streams", *names],
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                preexec_fn=die_with_parent(),  # noqa: PLW1509 - as the supervisor does
            )

    @property
    def running(self) -> subprocess.Popen[bytes]:
        assert self.process is not None
        return self.process

    def kill(self) -> None:
        self.running.kill()
        self.running.wait()

    def stop(self) -> float:
        """End it by SIGTERM; give how many seconds that took."""
        began = monotonic()
        if self.running.poll() is None:
            self.running.send_signal(signal.SIGTERM)
            try:
                self.running.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()
        return monotonic() - began

    def lines(self) -> list[dict[str, Any]]:
        """Give the log lines that are JSON, of all starts."""
        found = []
        for line in self.log.read_text().splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return [line for line in found if isinstance(line, dict)]

    def logged(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.lines() if line.get("event") == event]

    def wait_logged(self, event: str, times: int = 1, timeout_s: float = READY_S) -> None:
        until = monotonic() + timeout_s
        while len(self.logged(event)) < times:
            assert self.running.poll() is None, self.log.read_text()[-4000:]
            assert monotonic() < until, f"no {event}:\n{self.log.read_text()[-4000:]}"
            sleep(0.05)


@contextmanager
def worker(kafka: str, prefix: str, home: Path, *names: str, **settings: str) -> Iterator[Worker]:
    """Run a worker for the length of the block."""
    home.mkdir(parents=True, exist_ok=True)
    env = {k: v for k, v in os.environ.items() if not k.startswith("FAREGATE_")} | {
        "FAREGATE_KAFKA": kafka,
        "FAREGATE_TOPIC_PREFIX": prefix,
        "FAREGATE_HOME": str(home),
        "FAREGATE_LOG_FORMAT": "json",
        "FAREGATE_SESSION_TIMEOUT_MS": "6000",
        "FAREGATE_STREAMS_EVERY_S": "0.2",
        **{f"FAREGATE_{name.upper()}": value for name, value in settings.items()},
    }
    made = Worker(env, home / f"{uuid4().hex[:6]}.log")
    made.start(*names)
    try:
        made.wait_logged("streams_started")
        yield made
    except BaseException:
        sys.stdout.write(f"{made.log.name} ends with:\n{made.log.read_text()[-4000:]}\n")
        raise
    finally:
        made.stop()


@dataclass(slots=True)
class Account:
    """Announces entries of one account as the relay does: gapless, and adding up."""

    name: str
    balance: float = 0
    held: float = 0
    debt: float = 0
    sequence: int = 0
    charged: float = 0
    sent: list[Raw] = field(default_factory=list)

    def entry(self, kind: str, amount: float, at: datetime | None = None, **more: Any) -> Raw:
        """Make the next entry; `more` replaces fields, also wrongly."""
        self.sequence += 1
        self.balance = round(self.balance + amount, 6)
        at = at or datetime.now(UTC)
        data = {
            "account": self.name,
            "kind": kind,
            "amount": amount,
            "held_delta": 0,
            "debt_delta": 0,
            "balance": self.balance,
            "held": self.held,
            "available": self.balance - self.held,
            "debt": self.debt,
            "sequence": self.sequence,
            "at": at.isoformat(),
            **more,
        }
        types = {"usage": "CreditsDeductedV1", "adjustment": "CreditsAdjustedV1"}
        type_ = types.get(kind, "CreditsGrantedV1")
        raw = record(type_, data, self.name, f"{self.name} {self.sequence}", at)
        self.sent.append(raw)
        return raw

    def grant(self, amount: float, at: datetime | None = None, **more: Any) -> Raw:
        return self.entry("purchase", amount, at, **more)

    def usage(self, amount: float, at: datetime | None = None, **more: Any) -> Raw:
        self.charged = round(self.charged + amount, 6)
        return self.entry("usage", -amount, at, **{"user_id": "ada", **more})

    def checkpoint(self, at: datetime | None = None, **more: Any) -> Raw:
        """Make a checkpoint of how it is now."""
        at = at or datetime.now(UTC)
        data = {
            "account": self.name,
            "sequence": self.sequence,
            "balance": self.balance,
            "held": self.held,
            "debt": self.debt,
            "chain_head": "00",
            **more,
        }
        event_id = f"{self.name} checkpoint {uuid4().hex}"
        return record("LedgerCheckpointV1", data, self.name, event_id, at)


def record(
    type_: str, data: dict[str, Any], key: str, event_id: str, at: datetime | None = None
) -> Raw:
    """Make a record as it lies on its topic."""
    at = at or datetime.now(UTC)
    value = structured(type_, data, event_id, time=at.isoformat())
    return Raw(TOPIC_OF_TYPE[type_], value, key.encode(), (CONTENT_TYPE,))


def denial(
    account: str, at: datetime | None = None, reason: str = "insufficient_credits", **more: Any
) -> Raw:
    """Make a denial."""
    kind, _, name = account.partition(":")
    data = {
        "pipeline_id": f"p-{uuid4().hex}",
        "batch_id": "b",
        "user_id": "ada" if kind == "org" else name,
        "org_id": name if kind == "org" else None,
        "phases": ["spellcheck", "nlp"],
        "reason": reason,
        "status": 402,
        "required_credits": 45,
        "available_credits": 0,
        "considered": [],
        "message": "no",
        "pipeline": "nlp",
        **more,
    }
    return record("PipelineDeniedV1", data, account, uuid4().hex, at)


def registration(user: str, **more: Any) -> Raw:
    """Make a registration."""
    return record("UserRegisteredV1", {"user_id": user, **more}, f"user:{user}", uuid4().hex)


@dataclass(frozen=True, slots=True)
class Streams:
    """An installation for streams: feeds it, and reads what it says."""

    kafka: str
    prefix: str

    def feed(self, *records: Raw) -> None:
        asyncio.run(send(self.kafka, self.prefix, records))

    def said(self, type_: str, **fields: Any) -> list[Event]:
        """Give the signals of a type with these fields in their data, in order per account."""
        records = asyncio.run(read_all(self.kafka, [self.prefix + TOPIC_OF_TYPE[type_]]))
        events = [decode(r.value, r.headers) for r in records]
        return [
            e
            for e in events
            if e.type == type_ and all(e.data.get(k) == v for k, v in fields.items())
        ]

    def until(
        self,
        type_: str,
        condition: Callable[[Sequence[Event]], bool] = bool,
        timeout_s: float = 30,
        **fields: Any,
    ) -> list[Event]:
        """Wait for signals that fulfil the condition, and give them."""
        until = monotonic() + timeout_s
        while True:
            found = self.said(type_, **fields)
            if condition(found):
                return found
            assert monotonic() < until, f"{type_} {fields}: {[e.data for e in found[-5:]]}"
            sleep(0.1)


@contextmanager
def installed(kafka: str) -> Iterator[Streams]:
    """Make the topics of an installation, with two partitions each, and delete them afterwards."""
    prefix = f"t{uuid4().hex[:10]}."
    asyncio.run(apply_topics(kafka, prefix=prefix, partitions=2))
    yield Streams(kafka, prefix)
    asyncio.run(delete_topics(kafka, prefix))
