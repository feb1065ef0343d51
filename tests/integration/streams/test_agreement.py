"""The streams beside the real product: their totals are the ledger's, and nothing is suspicious."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
from tests.helpers.streams import Streams, worker
from tests.helpers.world import World

from faregate.events import Event
from faregate.ledger import acts

pytestmark = pytest.mark.stack


async def test_the_totals_of_a_day_are_the_ledgers_and_announcements_add_up(
    here: World, tmp_path: Path
) -> None:
    for number, org in enumerate(("org:acme", "org:beta")):
        await acts.set_balance(here.store, org, 1000_000_000, actor="test", key=f"set-{number}")
    streams = Streams(here.kafka, here.prefix)
    names = ("attribution", "denials", "reconcile")
    running = worker(here.kafka, here.prefix, tmp_path, *names, streams_reconcile_after_s="1")
    with ExitStack() as resources:
        started = asyncio.to_thread(resources.enter_context, running)
        async with here.running("entitlements", "deduction", "relay", checkpoint_entries=10):
            await started
            await _live(here)
            for org, amount in (await _spent(here)).items():
                enough = partial(_is_total, amount)
                await asyncio.to_thread(
                    streams.until, "AttributionV1", enough, account=org, window="day"
                )
            said = await asyncio.to_thread(streams.said, "AttributionV1", account="org:acme")
            users = {s["name"]: s["credits"] for s in said[-1].data["users"]}
            assert users == await _spent_by_users(here, "org:acme")
            spikes = await asyncio.to_thread(streams.until, "DenialSpikeV1", account="org:acme")
            assert spikes[0].data["reasons"] == {"insufficient_credits": 5}
            assert spikes[0].data["pipelines"] == {"cj_assessment": 5}
            assert await here.announced("credits.checkpoints")
            await asyncio.sleep(2)  # for longer than a checkpoint may wait here
            assert await asyncio.to_thread(streams.said, "ReconcileAlertV1") == []


async def _live(here: World) -> None:
    """Let two orgs use something, some of it announced twice, and one be denied."""
    usages = [
        here.usage(f"user-{n % 5}", org=("acme", "beta")[n % 2], units=1 + n % 7) for n in range(80)
    ]
    await here.send(*usages, *usages[:10])
    await here.send(*(here.request(org="acme", items=1_000_000) for _ in range(6)))
    await here.settled("deduction", "entitlements")


def _is_total(amount: float, found: Sequence[Event]) -> bool:
    """Tell whether the newest signals sum up to this; over midnight there are two days."""
    newest = {e.data["window_start"]: e.data["total"] for e in found}
    return bool(sum(newest.values()) == amount)


async def _spent(here: World) -> dict[str, float]:
    """What the ledger charged each org."""
    rows = await here.pool.fetch(
        "SELECT s.subject, sum(e.debt_delta - e.amount)::bigint AS spent FROM entries e "
        "JOIN subjects s ON s.account_id = e.account_id WHERE e.kind = 'usage' GROUP BY 1"
    )
    return {row["subject"]: row["spent"] / 1e6 for row in rows}


async def _spent_by_users(here: World, org: str) -> dict[str, float]:
    rows = await here.pool.fetch(
        "SELECT u.subject, sum(e.debt_delta - e.amount)::bigint AS spent FROM entries e "
        "JOIN subjects s ON s.account_id = e.account_id JOIN subjects u ON u.account_id = e.user_id "
        "WHERE e.kind = 'usage' AND s.subject = $1 GROUP BY 1",
        org,
    )
    return {row["subject"].removeprefix("user:"): row["spent"] / 1e6 for row in rows}
