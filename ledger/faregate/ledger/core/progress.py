"""Progress of pipelines: what need not run again, and holds that are extended or closed."""

from __future__ import annotations

from dataclasses import replace

from faregate.ledger.core.commands import Finished, PhaseCompleted
from faregate.ledger.core.holds import close_if_due, close_if_settled, extend, owned_pipeline
from faregate.ledger.core.model import Outcome
from faregate.ledger.core.posting import Work
from faregate.ledger.core.provisioning import FIRST_PIPELINE, reach


def phase_completed(work: Work, index: int, cmd: PhaseCompleted) -> Outcome:
    """Keep the phase as completed for the batch, for as many items as the pipeline had."""
    pipeline = close_if_due(work, owned_pipeline(work, cmd.pipeline_key, cmd.user, cmd.org))
    items = cmd.items if cmd.items is not None else pipeline.items if pipeline else None
    payer = cmd.org or cmd.user
    done = work.state.completions.setdefault((payer, cmd.batch_key), {})
    before = done.get(cmd.phase, 0)
    covers = None if items is None or before is None else max(items, before)
    done[cmd.phase] = work.completed[payer, cmd.batch_key, cmd.phase] = covers
    if pipeline is not None:
        extend(work, pipeline)
    return Outcome(
        index,
        cmd.identity,
        "phase_completed",
        "recorded",
        cmd.user,
        cmd.org,
        {"phase": cmd.phase, "items": items},
    )


def finished(work: Work, index: int, cmd: Finished) -> Outcome:
    """Put the hold in `closing`; it is released once its usage has settled, or after the grace."""
    pipeline = close_if_due(work, owned_pipeline(work, cmd.pipeline_key, cmd.user, cmd.org))
    hold = pipeline.hold if pipeline else None
    if pipeline and hold and hold.state == "live":
        closing = replace(
            hold,
            state="closing",
            usage_expected=cmd.usage_events,
            expires_at=work.now + work.state.rules.grace,
        )
        close_if_settled(work, work.put(replace(pipeline, hold=closing)))
    if pipeline and pipeline.user == cmd.user and cmd.status == "succeeded":
        reach(work, cmd.user, FIRST_PIPELINE)
    body = {"status": cmd.status, "usage_events": cmd.usage_events}
    return Outcome(index, cmd.identity, "finished", "recorded", cmd.user, cmd.org, body)
