"""A test sets prices of its own, and nobody else's; operators' commands work beside it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from faregate.testing.batches import Usage
from faregate.testing.crediting import Batches
from faregate.testing.kit import Kit
from faregate.testing.ledgers import Ledger
from faregate.testing.prices import Prices, PricesShared
from faregate.testing.publishing import Publish

pytestmark = pytest.mark.stack

BOOK = """
[pipelines]
report = ["extract", "summarize"]
[phases]
extract = { per = "item", credits = 0.5 }
summarize = { per = "flat", credits = 3 }
"""


async def operator(kit: Kit, *words: str) -> Any:
    """Run a command as an operator of the installation would; give its JSON."""
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "faregate.runtime", *words, "--json"],
        env=os.environ | kit.operator_environment,
        check=True,
        stdout=subprocess.PIPE,
    )
    return json.loads(done.stdout)


async def test_a_pipeline_of_ones_own_has_the_price_that_the_test_says(
    batch: Batches,
    prices: Prices,
    publish: Publish,
    usage: Usage,
    ledger: Ledger,
    expect_event: Any,
    faregate: Kit,
) -> None:
    version = await prices.apply(BOOK)
    given = await batch(items=10)
    request = given.requested("report")
    await publish(request)
    initiated = await expect_event("PipelineInitiatedV1", pipeline_id=request.pipeline_id)
    assert initiated.reserved_credits == 8
    await publish(usage(given, phase="extract", units=4))
    await expect_event("CreditsDeductedV1", account=given.org, amount=-2)

    shown = await operator(faregate, "prices", "show")
    assert (shown["version"], set(shown["phases"])) == (version, {"extract", "summarize"})
    explained = await operator(faregate, "explain", request.pipeline_id)
    assert explained["pipeline"]["decisions"][0]["payer"] == given.org
    assert (await operator(faregate, "verify"))["ok"]
    await ledger.assert_conserved()


async def test_a_book_is_changed_and_applied_as_a_dictionary_or_a_file(
    prices: Prices, faregate: Kit, tmp_path: Path
) -> None:
    book = await prices.book()
    assert "cj_assessment" in book["phases"]
    book["phases"]["extract"] = {"per": "item", "credits": 0.5}
    first = await prices.apply(book)

    shown = await operator(faregate, "prices", "show")
    assert {"cj_assessment", "extract"} <= set(shown["phases"])
    file = tmp_path / "prices.json"
    file.write_text(json.dumps(shown))  # with what stands beside a book there
    assert await prices.apply(file) == first + 1
    assert await prices.apply(str(file)) == first + 2
    assert await prices.book() == book


async def test_what_is_no_book_is_refused(prices: Prices, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the text of a price book is neither TOML nor JSON"):
        await prices.apply("phases: extract")
    file = tmp_path / "prices.toml"
    file.write_text("phases: extract")
    with pytest.raises(ValueError, match=r"prices\.toml is neither TOML nor JSON"):
        await prices.apply(file)
    with pytest.raises(ValueError, match="no phases and no models"):
        await prices.apply({"pipelines": {}})


async def test_the_prices_that_other_tests_share_stay_as_they_are(faregate: Kit) -> None:
    before = await faregate.prices.book()
    with pytest.raises(PricesShared, match="use the fixture `prices`"):
        await faregate.prices.apply(BOOK)
    assert await faregate.prices.book() == before


@pytest.mark.faregate(isolated=True)
async def test_a_test_with_an_installation_for_itself_may_set_them(faregate: Kit) -> None:
    assert await faregate.prices.apply(BOOK) == 2
