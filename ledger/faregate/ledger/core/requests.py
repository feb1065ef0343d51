"""The preflight: may this pipeline run, who pays, and what is reserved (contract: Who pays)."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid5

from faregate.ledger.core import quotas
from faregate.ledger.core.commands import Request
from faregate.ledger.core.denials import facts, rfc3339
from faregate.ledger.core.holds import close_hold, close_if_due, open_hold, take_hold
from faregate.ledger.core.model import Outcome, Pipeline, Rejected
from faregate.ledger.core.payers import candidates, covering, involved, refusal
from faregate.ledger.core.posting import Work
from faregate.ledger.core.prices import Book
from faregate.ledger.core.provisioning import welcome
from faregate.ledger.core.renewal import refresh


def request(work: Work, index: int, cmd: Request) -> Outcome:
    """Decide a request; when it is let in and costs something, reserve that in the same step.

    Raises Rejected `pipeline_conflict` when the pipeline is live for another user or org.
    """
    known = work.state.pipelines.get(cmd.pipeline_key)
    if known and open_hold(known, work.now):
        _same_owner(known, cmd)
    welcome(work, cmd.user, "lazy")
    known = close_if_due(work, known)
    if known and known.hold and known.hold.state == "live":
        return _initiated(work, index, cmd, known)
    if known:
        close_hold(work, known, "restarted")
    for subject in involved(work, cmd.user, cmd.org):
        refresh(work, subject)
    return _decide_afresh(work, index, cmd)


def _same_owner(known: Pipeline, cmd: Request) -> None:
    if (known.user, known.org) != (cmd.user, cmd.org):
        message = "this pipeline_id is live for another user or org: use a new pipeline_id"
        raise Rejected("pipeline_conflict", message)


def _decide_afresh(work: Work, index: int, cmd: Request) -> Outcome:
    book = work.state.books.in_force(work.now)
    phases = cmd.phases or (book.pipelines.get(cmd.pipeline) if book else None)
    if phases is None:
        return _denied(work, index, cmd, "unknown_pipeline", (), None, ())
    to_run, pruned = prune(work, cmd, phases)
    required = book.required(to_run, cmd.items) if book else None
    if book is None or required is None:
        return _denied(work, index, cmd, "unknown_price", to_run, None, pruned)
    if cmd.expires_at is not None and work.now >= cmd.expires_at:
        return _denied(work, index, cmd, "request_expired", to_run, required, pruned)
    return _reserve(work, index, cmd, book, to_run, pruned, required)


def prune(
    work: Work, cmd: Request, phases: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Split `phases` in those to run and those already completed for the whole of the batch."""
    done = work.state.completions.get((cmd.org or cmd.user, cmd.batch_key), {})
    covered = {p for p, items in done.items() if items is None or items >= cmd.items}
    to_run = tuple(p for p in phases if p not in covered)
    return to_run, tuple(p for p in phases if p in covered)


def _reserve(
    work: Work,
    index: int,
    cmd: Request,
    book: Book,
    to_run: tuple[str, ...],
    pruned: tuple[str, ...],
    required: int,
) -> Outcome:
    counts = cmd.org is None
    if counts and quotas.is_used_up(work, cmd.user):
        return _denied(work, index, cmd, "quota_exceeded", to_run, required, pruned)
    payers = candidates(work, cmd.user, cmd.org)
    hold = None
    if required:
        payer = covering(work, payers, required)
        if payer is None:
            reason = refusal(work, payers, required)
            return _denied(work, index, cmd, reason, to_run, required, pruned)
        hold = take_hold(
            work,
            payer,
            required,
            hold_id=uuid5(UUID(bytes=cmd.identity.event_key), "hold").bytes,
            user=cmd.user,
            org=cmd.org,
            price_version=book.version,
            expires_at=work.now + work.state.rules.hold_ttl,
        )
    pipeline = Pipeline(
        cmd.pipeline_key,
        cmd.user,
        cmd.org,
        cmd.items,
        to_run,
        pruned,
        hold,
        cmd.identity.event_key,
    )
    calls = quotas.count(work, cmd.user) if counts else 0
    return _initiated(work, index, cmd, work.put(pipeline), book, payers[0].subject, calls)


def _initiated(
    work: Work,
    index: int,
    cmd: Request,
    pipeline: Pipeline,
    book: Book | None = None,
    payer: str | None = None,
    calls: int = 0,
) -> Outcome:
    hold = pipeline.hold
    version = hold.price_version if hold else book.version if book else None
    payer = hold.payer if hold else payer
    body: dict[str, Any] = {
        "pipeline": cmd.pipeline,
        "items": cmd.items,
        "phases": list(pipeline.phases),
        "pruned": list(pipeline.pruned),
        "payer": payer,
        "available": work.state.accounts[payer].available if payer else 0,
        "reserved": hold.amount if hold else 0,
        "hold_id": str(UUID(bytes=hold.id)) if hold else None,
        "hold_expires_at": rfc3339(hold.expires_at) if hold else None,
        "price_version": version,
    }
    return Outcome(index, cmd.identity, "request", "initiated", cmd.user, cmd.org, body, calls)


def _denied(
    work: Work,
    index: int,
    cmd: Request,
    reason: str,
    phases: tuple[str, ...],
    required: int | None,
    pruned: tuple[str, ...],
) -> Outcome:
    payers = candidates(work, cmd.user, cmd.org)
    body: dict[str, Any] = {
        "pipeline": cmd.pipeline,
        "items": cmd.items,
        "phases": list(phases),
        "pruned": list(pruned),
        **facts(work, cmd.user, payers, reason, required),
    }
    return Outcome(index, cmd.identity, "request", "denied", cmd.user, cmd.org, body)
