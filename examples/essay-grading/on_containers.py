"""The service on containers of its own, without pytest: python on_containers.py [IMAGE]."""

import asyncio
import sys

from essay_grading import EssayGrading

from faregate.testing.containers import FaregateStack

ESSAYS = ["one", "one two", "one two three"]


async def grade(kafka: str) -> None:
    """Grade three essays: three pairs, paid with welcome credits."""
    async with EssayGrading(kafka) as service:
        graded = await service.grade(ESSAYS, batch_id="week-12", user="ana")
    print(f"{graded.payer} pays {graded.reserved} credits; from best to worst: {graded.ranking}")


if __name__ == "__main__":
    image = sys.argv[1] if len(sys.argv) > 1 else None
    with FaregateStack(image) as stack:
        asyncio.run(grade(stack.kafka_bootstrap))
