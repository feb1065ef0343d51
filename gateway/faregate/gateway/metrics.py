"""Every metric there is, in one list. No label names a person or an account.

Consumers, relay and sweeper have no port of their own: what shows that they are at work (lag, the
outbox, holds past their end) lies in Kafka and the database, where any gateway sees it.
docs/operations.md has the same list, and a test that it is the same. The workers of one gateway
share them, by files in PROMETHEUS_MULTIPROC_DIR.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from math import nan
from typing import Any, Literal

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

disable_created_metrics()  # type: ignore[no-untyped-call]
SHARED_DIR = "PROMETHEUS_MULTIPROC_DIR"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_LAST: Literal["mostrecent"] = "mostrecent"
"""Workers look at the same things: what was seen last counts."""
_SIZES = (1, 2, 5, 10, 25, 50, 100, 250)


class Metrics:
    """The metrics of one process; `text` is what Prometheus reads."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        # Answers by route (its template, never the path) and status.
        self.answers = Counter(
            "faregate_http_answers", "Answers.", ("method", "route", "status"), registry=registry
        )
        # From the first byte of a request to the last of its answer.
        self.seconds = Histogram(
            "faregate_http_seconds",
            "Time to answer.",
            ("method", "route"),
            buckets=_SECONDS,
            registry=registry,
        )
        # Calls in the queue for a transaction; near its limit, answers are 503.
        self.waiting = Gauge(
            "faregate_group_waiting",
            "Commands waiting.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        # Calls that were turned away: the queue was full, or had too much about an account.
        self.refused = Counter("faregate_group_refused", "Calls turned away.", registry=registry)
        # How many commands share a transaction: above 1 under load.
        self.batch_size = Histogram(
            "faregate_group_batch_size", "Commands in one.", buckets=_SIZES, registry=registry
        )
        # Deciding and writing a batch.
        self.batch_seconds = Histogram(
            "faregate_group_batch_seconds", "Time of one.", buckets=_SECONDS, registry=registry
        )
        # Sign-ins and registrations by result: ok, failed, limited.
        self.sign_ins = Counter(
            "faregate_sign_ins", "Tries to sign in.", ("kind", "result"), registry=registry
        )
        # Tokens by how they were checked: cached, verified, refused.
        self.tokens = Counter("faregate_tokens", "Tokens seen.", ("result",), registry=registry)
        # Events of an outside identity provider: applied, ignored, refused (not signed by it).
        self.identity_events = Counter(
            "faregate_identity_events", "Events received.", ("result",), registry=registry
        )
        # Calls of models by what they were charged by (reported: the upstream's usage, estimated,
        # nothing) and whose key paid upstream (credits, byok).
        self.llm_calls = Counter(
            "faregate_llm_calls", "Calls of models.", ("charged", "key"), registry=registry
        )
        # Calls whose charge or release was given up: each is in the log, with its hold.
        self.llm_given_up = Counter("faregate_llm_given_up", "Not settled.", registry=registry)
        # Webhooks of Lago by what they were about and what came of them: applied, unchanged,
        # ignored, refused (Lago shows those as failed).
        self.lago_webhooks = Counter(
            "faregate_lago_webhooks", "Messages of Lago.", ("object", "result"), registry=registry
        )
        # Customers sent to Lago: made, failed (tried again), refused.
        self.lago_customers = Counter(
            "faregate_lago_customers", "Customers sent.", ("result",), registry=registry
        )
        self._found_elsewhere(registry)
        self._lagging: set[str] = set()
        self._routes: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    def _found_elsewhere(self, registry: CollectorRegistry) -> None:
        # 1: the server answers, 0: it does not (kafka, database).
        self.up = Gauge(
            "faregate_server_up",
            "Answers.",
            ("server",),
            registry=registry,
            multiprocess_mode=_LAST,
        )
        # Records that a consumer group has still to read; NaN while that cannot be told.
        self.lag = Gauge(
            "faregate_consumer_lag",
            "To read.",
            ("consumer",),
            registry=registry,
            multiprocess_mode=_LAST,
        )
        # Transactions whose facts wait for the relay; NaN while that cannot be told.
        self.outbox = Gauge(
            "faregate_outbox_waiting", "To publish.", registry=registry, multiprocess_mode=_LAST
        )
        # Holds past their end: above 0 for long, no sweeper works and credits are stuck.
        self.overdue = Gauge(
            "faregate_holds_overdue", "Not released.", registry=registry, multiprocess_mode=_LAST
        )

    def found(self, checks: Mapping[str, Mapping[str, Any]]) -> None:
        """Take over what the probe has found; see `context.Probe`."""
        for server in ("kafka", "database"):
            self.up.labels(server).set(checks[server]["ok"])
        lags = {name: n for name, n in checks["lag"].items() if name not in {"ok", "error"}}
        for consumer in self._lagging - lags.keys():
            self.lag.labels(consumer).set(nan)
        for consumer, records in lags.items():
            self.lag.labels(consumer).set(records)
        self._lagging |= lags.keys()
        database = checks["database"]
        self.outbox.set(database.get("outbox", nan))
        self.overdue.set(database.get("overdue_holds", nan))

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count an answer, and its time. Looking labels up is dearer than counting."""
        known = self._routes.get((method, route, status))
        if known is None:
            answers = self.answers.labels(method, route, str(status))
            known = (answers, self.seconds.labels(method, route))
            self._routes[method, route, status] = known
        known[0].inc()
        known[1].observe(seconds)

    def text(self) -> bytes:
        """Write all metrics in the text format."""
        if SHARED_DIR not in os.environ:
            return generate_latest(self.registry)
        every = CollectorRegistry()
        MultiProcessCollector(every)  # type: ignore[no-untyped-call]
        return generate_latest(every)
