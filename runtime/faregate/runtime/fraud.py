"""Suspicions of fraud: what the stream said, and what people decided about it."""

from __future__ import annotations

from typing import Any

from faregate.consumers.kafka import Cluster
from faregate.consumers.records import there_now
from faregate.events import FraudSuspectedV1, InvalidRecord, decode, parse
from faregate.ledger import fraud_reviews
from faregate.ledger.store import Store

TOPIC = "signals.fraud"


async def cases(cluster: Cluster) -> dict[str, dict[str, Any]]:
    """Give every case that is kept in Kafka as its newest signal says it, oldest first, by id.

    `first_at` is when it came up. Raises aiokafka's errors when Kafka is away.
    """
    found: dict[str, dict[str, Any]] = {}
    async for record in there_now(cluster, [cluster.topic(TOPIC)], "fraud"):
        try:
            event = decode(record.value, record.headers)
            data = parse(event)
        except InvalidRecord:
            continue
        if isinstance(data, FraudSuspectedV1):
            at = event.time.isoformat() if event.time else None
            before = found.get(data.case_id)
            first_at = before["first_at"] if before else at
            found[data.case_id] = {**data.to_data(), "first_at": first_at, "at": at}
    return dict(sorted(found.items(), key=lambda item: str(item[1]["first_at"])))


async def reviewed(store: Store, cluster: Cluster) -> list[dict[str, Any]]:
    """List the cases with what was decided: `review` is None for those still open."""
    decided = await fraud_reviews.reviews(store)
    return [
        {**case, "review": _value(decided.get(case_id))}
        for case_id, case in (await cases(cluster)).items()
    ]


def _value(review: fraud_reviews.Review | None) -> dict[str, Any] | None:
    if review is None:
        return None
    return {
        "verdict": review.verdict,
        "by": review.actor,
        "reason": review.reason,
        "at": review.at.isoformat(),
    }
