"""A service that grades essays: it asks before it grades, and reports what it used.

async with EssayGrading("localhost:9092") as service:
    graded = await service.grade(essays, batch_id="week-12", user="ana", org="acme")
"""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import combinations
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

from faregate.events import (
    Event,
    PipelineDeniedV1,
    PipelineFinishedV1,
    PipelineInitiatedV1,
    PipelinePhaseCompletedV1,
    PipelineRequestedV1,
    Publisher,
    Subscriber,
    UsageRecordedV1,
)

SOURCE = "/essays/grading"
PATIENCE_S = 30


class Denied(Exception):
    """Nobody would pay; `denial` says why, and what would help."""

    def __init__(self, denial: PipelineDeniedV1) -> None:
        super().__init__(f"{denial.status} {denial.reason}: {denial.message}")
        self.denial = denial


@dataclass(frozen=True)
class Graded:
    """Essays from best to worst (`cj_assessment`), and what it took."""

    pipeline_id: str
    payer: str
    phases: list[str]
    pruned: list[str]
    reserved: float
    ranking: list[int]
    usage_events: int


class EssayGrading:
    """The service; an async context manager."""

    def __init__(self, kafka: str, *, prefix: str = "", group: str = "essay-grading") -> None:
        self._publisher = Publisher(kafka, SOURCE, prefix=prefix)
        self._subscriber = Subscriber(kafka, prefix + group, prefix=prefix)
        self._subscriber.on(PipelineInitiatedV1)(self._decided)
        self._subscriber.on(PipelineDeniedV1)(self._decided)
        self._waiting: dict[str, asyncio.Future[PipelineInitiatedV1 | PipelineDeniedV1]] = {}

    async def __aenter__(self) -> Self:
        await self._publisher.__aenter__()
        self._listening = asyncio.create_task(self._subscriber.run())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._subscriber.stop()
        await self._listening
        await self._publisher.__aexit__(kind, error, traceback)

    async def grade(
        self,
        essays: list[str],
        *,
        batch_id: str,
        user: str,
        org: str | None = None,
        pipeline: str = "cj_assessment",
    ) -> Graded:
        """Ask, run the phases that are to be run, report. Raises Denied."""
        who: dict[str, Any] = {"user_id": user, "org_id": org}
        pipeline_id = f"grading-{uuid4()}"
        decided = self._waiting[pipeline_id] = asyncio.get_running_loop().create_future()
        request = PipelineRequestedV1(
            pipeline_id=pipeline_id,
            pipeline=pipeline,
            batch_id=batch_id,
            items=len(essays),
            **who,
        )
        await self._publisher.publish(request)
        decision = await asyncio.wait_for(decided, PATIENCE_S)
        if isinstance(decision, PipelineDeniedV1):
            raise Denied(decision)
        ranking, used = list(range(len(essays))), 0
        for phase in decision.phases:
            if phase == "cj_assessment":
                ranking, used = await self._compare(essays, pipeline_id, who)
            completed = PipelinePhaseCompletedV1(
                pipeline_id=pipeline_id,
                batch_id=batch_id,
                phase=phase,
                items=len(essays),
                **who,
            )
            await self._publisher.publish(completed)
        finished = PipelineFinishedV1(
            pipeline_id=pipeline_id, status="succeeded", usage_events=used, **who
        )
        await self._publisher.publish(finished)
        return Graded(
            pipeline_id,
            decision.payer,
            decision.phases,
            decision.pruned_phases,
            decision.reserved_credits,
            ranking,
            used,
        )

    async def _compare(
        self, essays: list[str], pipeline_id: str, who: dict[str, Any]
    ) -> tuple[list[int], int]:
        """Compare each pair; who has more different words wins. Each comparison is usage."""
        wins = [0] * len(essays)
        used = 0
        for one, other in combinations(range(len(essays)), 2):
            better = max(one, other, key=lambda n: len(set(essays[n].split())))
            wins[better] += 1
            used += 1
            usage = UsageRecordedV1(
                usage_id=f"{pipeline_id}-{used}",
                pipeline_id=pipeline_id,
                occurred_at=datetime.now(UTC),
                phase="cj_assessment",
                units=1,
                **who,
            )
            await self._publisher.publish(usage)
        return sorted(range(len(essays)), key=lambda n: -wins[n]), used

    async def _decided(self, data: PipelineInitiatedV1 | PipelineDeniedV1, _: Event) -> None:
        waiting = self._waiting.pop(data.pipeline_id, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(data)
