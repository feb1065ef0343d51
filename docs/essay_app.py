"""An essay grading app in one file: ask, run, report."""

import asyncio
import os
from datetime import UTC, datetime
from uuid import uuid4

from faregate.events import (
    Event,
    PipelineDeniedV1,
    PipelineFinishedV1,
    PipelineInitiatedV1,
    PipelineRequestedV1,
    Publisher,
    Subscriber,
    UsageRecordedV1,
)

KAFKA = os.environ["FAREGATE_KAFKA"]
SOURCE = "/docs/essays"
Decision = PipelineInitiatedV1 | PipelineDeniedV1

# One for the whole program: a group has its place in each topic, and begins at the oldest record.
subscriber = Subscriber(KAFKA, "essays")
waiting: dict[str, asyncio.Future[Decision]] = {}


@subscriber.on(PipelineInitiatedV1)
async def initiated(data: PipelineInitiatedV1, _: Event) -> None:
    """Hand a decision to whoever waits for it."""
    if data.pipeline_id in waiting:
        waiting.pop(data.pipeline_id).set_result(data)


@subscriber.on(PipelineDeniedV1)
async def denied(data: PipelineDeniedV1, _: Event) -> None:
    """Hand a denial to whoever waits for it."""
    if data.pipeline_id in waiting:
        waiting.pop(data.pipeline_id).set_result(data)


async def ask(publisher: Publisher, pipeline_id: str) -> Decision:
    """Publish a request and wait for its decision."""
    decided = waiting[pipeline_id] = asyncio.get_running_loop().create_future()
    await publisher.publish(
        PipelineRequestedV1(
            pipeline_id=pipeline_id,
            pipeline="cj_assessment",
            user_id="ana",
            org_id="acme",
            batch_id=f"batch-{pipeline_id}",
            items=10,
        )
    )
    return await asyncio.wait_for(decided, 30)


async def report(publisher: Publisher, pipeline_id: str, comparisons: int) -> None:
    """Report each comparison as one usage event, then the end of the pipeline."""
    for n in range(comparisons):
        await publisher.publish(
            UsageRecordedV1(
                usage_id=f"{pipeline_id}-{n}",
                user_id="ana",
                org_id="acme",
                pipeline_id=pipeline_id,
                occurred_at=datetime.now(UTC),
                phase="cj_assessment",
                units=1,
            )
        )
    await publisher.publish(
        PipelineFinishedV1(
            pipeline_id=pipeline_id,
            user_id="ana",
            org_id="acme",
            status="succeeded",
            usage_events=comparisons,
        )
    )


async def main() -> None:
    """Run one pipeline."""
    pipeline_id = str(uuid4())
    async with Publisher(KAFKA, SOURCE) as publisher, asyncio.TaskGroup() as tasks:
        tasks.create_task(subscriber.run())
        decision = await ask(publisher, pipeline_id)
        if isinstance(decision, PipelineDeniedV1):
            raise SystemExit(f"denied: {decision.reason}: {decision.message}")
        await report(publisher, pipeline_id, comparisons=45)
        subscriber.stop()


asyncio.run(main())
