"""Whatever fits the document, or nearly fits, is answered as the document says. `make fuzz`: longer."""

from __future__ import annotations

import pytest
from tests.fuzz.place import KINDS, place
from tests.fuzz.run import fuzz
from tests.helpers.servers import Stack

pytestmark = [pytest.mark.stack, pytest.mark.timeout(400)]

ALIKE = ("--generation-deterministic", "--seed", "1", "--workers", "2", "--max-examples", "5")


async def test_every_route_answers_as_the_document_says_whoever_calls(
    stack: Stack, database_url: str
) -> None:
    async with place(stack, database_url) as here:
        for kind in KINDS:
            code, said = await fuzz(here, kind, "--phases", "examples,coverage,fuzzing", *ALIKE)
            assert code == 0, f"as {kind}:\n{said}"
        assert await here.faults() == []
