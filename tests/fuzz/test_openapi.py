"""Whatever fits the document, or nearly fits, is answered as the document says. `make fuzz`: longer."""

from __future__ import annotations

import pytest
from tests.fuzz.place import KINDS, place
from tests.fuzz.run import fuzz
from tests.helpers.routes import routes
from tests.helpers.servers import Stack

pytestmark = [pytest.mark.stack, pytest.mark.timeout(400)]

ALIKE = ("--generation-deterministic",)
HOW = {
    "nobody": ("--phases", "fuzzing", "--max-examples", "2"),
    "user": ("--phases", "examples,fuzzing", "--max-examples", "12"),
    "owner": ("--phases", "fuzzing", "--max-examples", "4"),
    "admin": ("--phases", "examples,coverage,fuzzing", "--max-examples", "3"),
}
"""Each boundary of the document is tried by the one who is let in everywhere."""
SELDOM = {
    "POST /v1/admin/refunds",  # takes an entry back a single time,
    "POST /v1/admin/grants/revoke",  # and a grant
    "GET /v1/admin/dlq/{letter_id}",  # there are no dead letters,
    "POST /v1/admin/dlq/{letter_id}/replay",
    "POST /v1/admin/fraud/{case_id}",  # and no suspicions
    "POST /webhooks/identity",  # signed by who sends them; not set up
    "POST /webhooks/lago",
}
"""What is seldom or never answered well here; each has tests of its own."""


async def test_every_route_answers_as_the_document_says_whoever_calls(
    stack: Stack, database_url: str
) -> None:
    async with place(stack, database_url) as here:
        for kind in KINDS:
            code, said = await fuzz(here, kind, *HOW[kind], *ALIKE)
            assert code == 0, f"as {kind}:\n{said}"
        answered = await here.answered()
        good = {route for route, found in answered.items() if any(s < 300 for s in found)}
        refused = sorted(set(routes()) - good - SELDOM)
        assert not refused, f"nothing was tried where all is refused: {', '.join(refused)}"
        assert await here.faults() == []
