"""The proof after a fault: every event had exactly one effect, and every fact was announced."""

from __future__ import annotations

import json
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker
from tests.helpers.world import World

from faregate.events import TOPIC_OF_TYPE, Event, parse_credits
from faregate.events.topics import routing_subject
from faregate.ledger.verify import Checkpoint, Report, verify

SCHEMAS = Path(__file__).parents[2] / "schemas"

_CHARGED = """SELECT r.usage_id, count(*) AS times, sum(e.units) AS units
    FROM entries e JOIN refs r USING (outcome_id) LEFT JOIN members m USING (account_id)
    WHERE e.kind = 'usage' AND m.account_id IS NULL GROUP BY 1"""
_DECIDED = """SELECT r.pipeline_id, count(*) AS times FROM outcomes o
    JOIN refs r ON r.outcome_id = o.id WHERE o.result IN ('initiated', 'denied') GROUP BY 1"""
_WRONG = """SELECT s.subject FROM accounts a JOIN subjects s ON s.account_id = a.id
    WHERE a.balance <> (SELECT coalesce(sum(amount), 0) FROM entries e WHERE e.account_id = a.id)
       OR a.balance < 0 OR a.held < 0 OR a.held > a.balance"""


async def prove(world: World, *consumers: str) -> list[tuple[str, bytes, Event]]:
    """Wait until everything is read and announced, then prove it all; give what was announced."""
    await world.settled(*consumers)
    await prove_effects(world)
    announced = await world.announced()
    await prove_announcements(world, announced)
    report = await verified(world, announced)
    assert report.ok, report.findings
    return announced


async def prove_effects(world: World) -> None:
    """Every piece of usage charged once, every request answered once, no account out of order."""
    charged = {r["usage_id"]: (r["times"], r["units"]) for r in await world.pool.fetch(_CHARGED)}
    assert charged == {usage_id: (1, units) for usage_id, units in world.usages.items()}
    decided = {r["pipeline_id"]: r["times"] for r in await world.pool.fetch(_DECIDED)}
    assert decided == dict.fromkeys(world.requests, 1)
    assert await world.pool.fetch(_WRONG) == []


async def prove_announcements(world: World, announced: list[tuple[str, bytes, Event]]) -> None:
    """Every fact announced at least once, on its topic, by its key, in order, as its schema says;
    a repetition is the same event."""
    contents: dict[str, tuple[str, Any]] = {}
    orders: dict[str, list[int]] = {}
    for topic, key, event in announced:
        assert topic == TOPIC_OF_TYPE[event.type]
        assert key.decode() == routing_subject(event.data)
        validator(event.type).validate(event.data)
        comparable = {k: v for k, v in event.data.items() if topic != "credits.checkpoints"}
        assert contents.setdefault(event.id, (event.type, comparable)) == (event.type, comparable)
        if topic == "credits.ledger":
            order = orders.setdefault(event.data["account"], [])
            if event.data["sequence"] not in order[-1000:]:
                order.append(event.data["sequence"])
    rows = await world.pool.fetch(
        "SELECT s.subject, a.sequence FROM accounts a JOIN subjects s ON s.account_id = a.id "
        "LEFT JOIN members m ON m.account_id = a.id WHERE m.account_id IS NULL"
    )
    expected = {r["subject"]: list(range(1, r["sequence"] + 1)) for r in rows if r["sequence"]}
    assert orders == expected
    decisions = Counter(
        e.data["pipeline_id"] for e in {e.id: e for _, _, e in announced}.values() if _decides(e)
    )
    assert decisions == Counter(world.requests)


async def verified(world: World, announced: list[tuple[str, bytes, Event]] | None = None) -> Report:
    """Run `verify`, with the checkpoints that were announced."""
    announced = await world.announced() if announced is None else announced
    checkpoints = [_checkpoint(e) for t, _, e in announced if t == "credits.checkpoints"]
    return await verify(world.pool, checkpoints=checkpoints)


def _checkpoint(event: Event) -> Checkpoint:
    d = event.data
    micro = {n: parse_credits(d[n], allow_zero=True) for n in ("balance", "held", "debt")}
    head = bytes.fromhex(d["chain_head"])
    return Checkpoint(
        d["account"], d["sequence"], chain_head=head, epoch=d.get("epoch", 0), **micro
    )


def _decides(event: Event) -> bool:
    return event.type in {"PipelineInitiatedV1", "PipelineDeniedV1"}


@cache
def validator(type_: str) -> Draft202012Validator:
    """Give the committed schema of an event type."""
    path = SCHEMAS / TOPIC_OF_TYPE[type_] / f"{type_}.schema.json"
    return Draft202012Validator(json.loads(path.read_text()), format_checker=FormatChecker())
