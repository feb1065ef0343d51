"""Batches of work, and the events of their pipelines: builders with as little noise as possible."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import uuid4

from faregate.events import (
    PipelineFinishedV1,
    PipelinePhaseCompletedV1,
    PipelineRequestedV1,
    UsageRecordedV1,
)

PIPELINE = PHASE = "cj_assessment"
"""Of the default price book: a credit for each pair of items."""

MODEL = "gpt-4o-mini"


def new_id(kind: str) -> str:
    """Make up an id that nobody used before: `batch-1f3a…`."""
    return f"{kind}-{uuid4().hex[:12]}"


@dataclass(frozen=True, slots=True)
class Batch:
    """Items of one user, in an org or (a guest's) without one. Ids are bare, without `org:`."""

    batch_id: str
    items: int
    user_id: str
    org_id: str | None

    @property
    def user(self) -> str:
        """The user's account."""
        return f"user:{self.user_id}"

    @property
    def org(self) -> str | None:
        """The org's account."""
        return None if self.org_id is None else f"org:{self.org_id}"

    @property
    def who(self) -> dict[str, Any]:
        """The fields of an event that say on whose behalf."""
        return {"user_id": self.user_id, "org_id": self.org_id}

    def requested(
        self, pipeline: str = PIPELINE, *, pipeline_id: str | None = None, **more: Any
    ) -> PipelineRequestedV1:
        """Make a request for a pipeline over all items; its `pipeline_id` is a new one."""
        return PipelineRequestedV1(
            pipeline_id=pipeline_id or new_id("pipeline"),
            pipeline=pipeline,
            batch_id=self.batch_id,
            **{"items": self.items, **self.who, **more},
        )

    def completed(self, pipeline_id: str, phase: str, **more: Any) -> PipelinePhaseCompletedV1:
        """Make the completion of a phase for all items."""
        return PipelinePhaseCompletedV1(
            pipeline_id=pipeline_id,
            batch_id=self.batch_id,
            phase=phase,
            **{"items": self.items, **self.who, **more},
        )

    def finished(
        self,
        pipeline_id: str,
        status: Literal["succeeded", "failed", "cancelled"] = "succeeded",
        *,
        usage_events: int | None = None,
    ) -> PipelineFinishedV1:
        """Make the end of a pipeline."""
        return PipelineFinishedV1(
            pipeline_id=pipeline_id, status=status, usage_events=usage_events, **self.who
        )


class Usage:
    """Makes usage events; `occurred_at` is now, by the clock of the test."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now

    def __call__(
        self,
        batch: Batch | None = None,
        *,
        user: str | None = None,
        org: str | None = None,
        pipeline_id: str | None = None,
        phase: str = PHASE,
        units: int = 1,
        **more: Any,
    ) -> UsageRecordedV1:
        """Make usage of a phase by a batch, or by `user` (in `org`): units are items or pairs."""
        who = _who(batch, user, org)
        return self._made(who, pipeline_id, {"phase": phase, "units": units, **more})

    def tokens(
        self,
        batch: Batch | None = None,
        *,
        user: str | None = None,
        org: str | None = None,
        pipeline_id: str | None = None,
        model: str = MODEL,
        input_tokens: int = 1000,
        output_tokens: int = 500,
        **more: Any,
    ) -> UsageRecordedV1:
        """Make usage of a model."""
        tokens = {"input_tokens": input_tokens, "output_tokens": output_tokens}
        return self._made(_who(batch, user, org), pipeline_id, {"model": model, **tokens, **more})

    def _made(
        self, who: dict[str, Any], pipeline_id: str | None, fields: dict[str, Any]
    ) -> UsageRecordedV1:
        defaults = {"usage_id": new_id("usage"), "occurred_at": self._now()}
        return UsageRecordedV1(**{**defaults, "pipeline_id": pipeline_id, **who, **fields})


def _who(batch: Batch | None, user: str | None, org: str | None) -> dict[str, Any]:
    if batch is not None:
        if user is not None or org is not None:
            raise ValueError("a batch says whose it is: leave out user and org")
        return batch.who
    if user is None:
        raise ValueError("say whose usage it is: a batch, or user (and org)")
    return {"user_id": user, "org_id": org}
