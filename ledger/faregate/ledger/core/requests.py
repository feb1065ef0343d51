"""The preflight: may this pipeline run, who pays, and what is reserved (contract: Who pays)."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID, uuid5

from faregate.ledger.core.holds import close_hold, close_if_due, open_hold
from faregate.ledger.core.model import Hold, Outcome, Pipeline, Rejected, Request
from faregate.ledger.core.posting import Work, post, welcome
from faregate.ledger.core.prices import Book

STATUS = {
    "unknown_pipeline": 422,
    "unknown_price": 422,
    "request_expired": 410,
    "quota_exceeded": 429,
    "debt_outstanding": 402,
    "no_allocation": 403,
    "allocation_exhausted": 402,
    "insufficient_credits": 402,
}
"""HTTP status of each reason for a denial, in the contract's order of precedence."""


def request(work: Work, index: int, cmd: Request) -> Outcome:
    """Decide a request; when it is let in and costs something, reserve that in the same step.

    Raises Rejected `pipeline_conflict` when the pipeline is live for another user or org.
    """
    known = work.state.pipelines.get(cmd.pipeline_key)
    if known and open_hold(known, work.now):
        _same_owner(known, cmd)
    welcome(work, cmd.user)
    known = close_if_due(work, known)
    if known and known.hold and known.hold.state == "live":
        return _initiated(work, index, cmd, known)
    if known:
        close_hold(work, known, "restarted")
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


def candidates(cmd: Request) -> list[str]:
    """Who may pay, in order: the org, then the user's own balance (policy `pool`)."""
    return [cmd.user] if cmd.org is None else [cmd.org, cmd.user]


def _reserve(
    work: Work,
    index: int,
    cmd: Request,
    book: Book,
    to_run: tuple[str, ...],
    pruned: tuple[str, ...],
    required: int,
) -> Outcome:
    payers = candidates(cmd)
    hold = None
    if required:
        payer = next((p for p in payers if _covers(work, p, required)), None)
        if payer is None:
            indebted = any(work.state.accounts[p].debt for p in payers)
            reason = "debt_outstanding" if indebted else "insufficient_credits"
            return _denied(work, index, cmd, reason, to_run, required, pruned)
        hold = _hold(work, cmd, book, payer, required)
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
    return _initiated(work, index, cmd, work.put(pipeline), book, payers[0])


def _covers(work: Work, payer: str, required: int) -> bool:
    account = work.state.accounts[payer]
    return account.debt == 0 and account.available >= required


def _hold(work: Work, cmd: Request, book: Book, payer: str, required: int) -> Hold:
    hold_id = uuid5(UUID(bytes=cmd.identity.event_key), "hold").bytes
    post(
        work,
        payer,
        "hold",
        held=required,
        hold_id=hold_id,
        user=cmd.user,
        org=cmd.org,
        price_version=book.version,
    )
    until = work.now + work.state.rules.hold_ttl
    return Hold(hold_id, payer, required, required, book.version, "live", until)


def _initiated(
    work: Work,
    index: int,
    cmd: Request,
    pipeline: Pipeline,
    book: Book | None = None,
    payer: str | None = None,
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
        "hold_expires_at": _rfc3339(hold.expires_at) if hold else None,
        "price_version": version,
    }
    return Outcome(index, cmd.identity, "request", "initiated", cmd.user, cmd.org, body)


def _rfc3339(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def _denied(
    work: Work,
    index: int,
    cmd: Request,
    reason: str,
    phases: tuple[str, ...],
    required: int | None,
    pruned: tuple[str, ...],
) -> Outcome:
    considered = [
        {"payer": p, "available": work.state.accounts[p].available} for p in candidates(cmd)
    ]
    body: dict[str, Any] = {
        "pipeline": cmd.pipeline,
        "items": cmd.items,
        "phases": list(phases),
        "pruned": list(pruned),
        "reason": reason,
        "status": STATUS[reason],
        "required": required or 0,
        "available": max(work.state.accounts[p].available for p in candidates(cmd)),
        "considered": considered,
        "held": sum(work.state.accounts[p].held for p in candidates(cmd)),
        "debts": [p for p in candidates(cmd) if work.state.accounts[p].debt],
    }
    return Outcome(index, cmd.identity, "request", "denied", cmd.user, cmd.org, body)
