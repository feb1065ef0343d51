"""One structured line for every decision; never a secret, never a whole payload."""

from __future__ import annotations

from collections.abc import Sequence

import structlog
from aiokafka import ConsumerRecord

from faregate.consumers.dlq import DeadLetter
from faregate.events.amounts import to_credits
from faregate.ledger.batch import Submission
from faregate.ledger.core import Outcome, Request, Seen
from faregate.ledger.store import Result

log = structlog.get_logger("faregate.decision")


def decisions(
    batch: Sequence[tuple[ConsumerRecord, Submission]], results: Sequence[Result]
) -> None:
    """Log each preflight decision, and a summary of everything else."""
    counts: dict[str, int] = {}
    for (_, submission), result in zip(batch, results, strict=True):
        if isinstance(submission.command, Request) and isinstance(result, Outcome):
            _decision(submission, result)
        name = _name(result)
        counts[name] = counts.get(name, 0) + 1
    log.debug("batch", **counts)


def _name(result: Result) -> str:
    if isinstance(result, Outcome):
        return result.result
    if isinstance(result, Seen):
        return "duplicate"
    return "nothing" if result is None else "rejected"


def _decision(submission: Submission, outcome: Outcome) -> None:
    body = outcome.body or {}
    denied = outcome.result == "denied"
    log.info(
        outcome.result,
        pipeline_id=submission.refs.pipeline_id,
        correlation_id=submission.refs.correlation_id,
        required_credits=to_credits(body["required" if denied else "reserved"]),
        available_credits=to_credits(body["available"]),
        reason=body.get("reason"),
        payer=body.get("payer"),
        phases=body.get("phases"),
        pruned=body.get("pruned"),
    )


def dead(letters: Sequence[DeadLetter]) -> None:
    """Log each record that went to the DLQ."""
    for letter in letters:
        log.warning(
            "dead_letter",
            topic=letter.record.topic,
            partition=letter.record.partition,
            offset=letter.record.offset,
            error=letter.code,
            message=letter.message,
        )
