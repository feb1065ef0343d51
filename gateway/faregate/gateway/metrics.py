"""Every metric of the gateway, in one list. No label names a person or an account.

The workers of one gateway share them, by files in PROMETHEUS_MULTIPROC_DIR.
"""

from __future__ import annotations

import os

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
        # Calls that were turned away because the queue was full.
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
        # Calls of models by what they were charged by (reported: the upstream's usage, estimated,
        # nothing) and whose key paid upstream (credits, byok).
        self.llm_calls = Counter(
            "faregate_llm_calls", "Calls of models.", ("charged", "key"), registry=registry
        )
        # Calls whose charge or release was given up: each is in the log, with its hold.
        self.llm_given_up = Counter("faregate_llm_given_up", "Not settled.", registry=registry)

        self._routes: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

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
