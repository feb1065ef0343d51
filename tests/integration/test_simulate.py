from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.acting import by
from tests.helpers.commands import Commands
from tests.helpers.history import everything
from tests.helpers.ledger import Ledger, initiated, new_id
from tests.helpers.servers import Stack

from faregate.events.amounts import MICRO
from faregate.ledger import acts
from faregate.ledger.acts import Call
from faregate.ledger.core import InvalidBook
from faregate.ledger.simulate import Change, Payer, Simulation, simulate

pytestmark = pytest.mark.stack

MINI: dict[str, Any] = {"phase": None, "units": None, "model": "gpt-4o-mini"}


def book(**more: Any) -> dict[str, Any]:
    return {
        "phases": {
            "spellcheck": {"per": "item", "credits": 0},
            "cj_assessment": {"per": "pair", "credits": 2},
        },
        **more,
    }


async def priced_again(ledger: Ledger, **change: Any) -> Simulation:
    return await simulate(ledger.store.pool, Change(**change))


def of(found: Simulation, name: str) -> Payer:
    return next(p for n, p in found.payers.items() if found.names[n] == name)


async def test_the_same_prices_come_to_what_was_charged(ledger: Ledger) -> None:
    await everything(ledger)
    found = await priced_again(ledger, increment=100_000)
    total = found.total()
    assert (total.charged, found.denied_total) == (total.would_be, 0)
    charged = await ledger.store.pool.fetchval(
        "SELECT sum(e.debt_delta - e.amount) FROM entries e WHERE kind = 'usage' "
        "AND account_id NOT IN (SELECT account_id FROM members) AND NOT EXISTS (SELECT "
        "FROM outcomes f WHERE f.command = 'refund' AND f.body ->> 'of' = e.outcome_id::text)"
    )
    assert total.charged == charged


async def test_another_increment_prices_llm_calls_and_nothing_else(ledger: Ledger) -> None:
    await ledger.usage(user="bea", input_tokens=267, output_tokens=0, **MINI)  # 0.0060075 credits
    await ledger.usage(user="bea", units=3)
    for increment, cost in ((10_000, 10_000), (100_000, 100_000), (1_000_000, 1_000_000)):
        found = await priced_again(ledger, increment=increment)
        assert of(found, "user:bea") == Payer(2, 3_100_000, 3_000_000 + cost)


async def test_another_margin_is_exact(ledger: Ledger) -> None:
    await ledger.usage(user="bea", input_tokens=100_000, output_tokens=0, **MINI)  # USD 0.015
    assert of(await priced_again(ledger, margin=2), "user:bea") == Payer(1, 2_300_000, 3_000_000)
    assert of(await priced_again(ledger, margin=2.05, increment=10_000), "user:bea") == Payer(
        1, 2_300_000, 3_080_000
    )


async def test_another_book_prices_every_payer_anew(ledger: Ledger) -> None:
    await ledger.set_balance("org:corp", 100)
    await ledger.usage(user="bea", units=3)
    await ledger.usage(user="bea", org="corp", units=4)
    await ledger.usage(user="bea", byok=True, units=9)
    found = await priced_again(ledger, book=book())
    assert of(found, "user:bea") == Payer(2, 3 * MICRO, 6 * MICRO)
    assert of(found, "org:corp") == Payer(1, 4 * MICRO, 8 * MICRO)
    assert found.total() == Payer(3, 7 * MICRO, 14 * MICRO)


async def test_what_the_book_has_no_price_for_is_listed_and_not_in_the_sums(
    ledger: Ledger,
) -> None:
    await ledger.usage(user="bea", units=3)
    await ledger.usage(user="bea", input_tokens=10, output_tokens=0, **MINI)
    found = await priced_again(ledger, book=book())
    assert found.total() == Payer(1, 3 * MICRO, 6 * MICRO)
    ((key, kind),) = found.unpriced.items()
    assert key == (None, None, "gpt-4o-mini")
    assert (kind.events, kind.charged) == (1, 100_000)


async def test_usage_that_waits_for_a_price_counts_under_a_book_that_has_one(
    ledger: Ledger,
) -> None:
    await ledger.usage(user="bea", phase="new", units=3)
    phases = book()["phases"] | {"new": {"per": "item", "credits": 0.5}}
    found = await priced_again(ledger, book={"phases": phases})
    assert of(found, "user:bea") == Payer(1, 0, 1_500_000)
    assert [k for k, _, _ in (await priced_again(ledger, book=book())).unpriced] == ["new"]


async def test_what_was_refunded_does_not_count_and_what_a_caller_said_stays(
    ledger: Ledger,
) -> None:
    store = ledger.store
    await ledger.grant("user:bea", 50)
    await ledger.usage(user="bea", units=3, usage_id="oops")
    await acts.refund(store, usage_id="oops", **by())
    await acts.deduct(store, "user:bea", amount=700_000, key=new_id("call"))
    await acts.deduct(store, "user:bea", call=Call("gpt-4o-mini", 100_000), key=new_id("call"))
    found = await priced_again(ledger, margin=3)
    assert found.as_said == 1
    assert of(found, "user:bea") == Payer(2, 700_000 + 2_300_000, 700_000 + 4_500_000)


async def test_models_by_tier_are_priced_by_the_users_tier(ledger: Ledger) -> None:
    await acts.set_tier(ledger.store, "user:bea", "professional", **by())
    await ledger.usage(user="bea", input_tokens=10_000, output_tokens=0, **MINI)
    tiered = {"models": {"gpt-4o-mini": {"kind": "tier_rate"}}}
    found = await priced_again(ledger, book=book(**tiered))
    assert of(found, "user:bea").would_be == 50_000  # 10 x 0.005 credits


async def test_who_would_have_been_denied_is_told_by_what_they_had_then(ledger: Ledger) -> None:
    await ledger.set_balance("user:bea", 100)
    assert initiated(await ledger.request("first", user="bea", items=10))  # 45 of 100
    assert initiated(await ledger.request("second", user="bea", items=10))  # 45 of 55
    await ledger.set_balance("user:bea", 1_000)
    assert initiated(await ledger.request("third", user="bea", items=10))
    assert initiated(await ledger.request("third", user="bea", items=10)), "the same hold again"
    found = await priced_again(ledger, book=book())
    assert found.requests == 3
    (denied,) = found.denied
    assert (denied.pipeline_id, denied.reason) == ("second", "insufficient_credits")
    assert (denied.required, denied.had) == (90 * MICRO, 55 * MICRO)


async def test_the_users_own_balance_may_pay_where_the_orgs_does_not(ledger: Ledger) -> None:
    await ledger.set_balance("org:corp", 50)
    assert initiated(await ledger.request("poor", user="bea", org="corp"))
    await ledger.set_balance("org:corp", 90)
    await ledger.set_balance("user:bea", 90)
    assert initiated(await ledger.request("rich", user="bea", org="corp"))
    found = await priced_again(ledger, book=book())
    assert [d.pipeline_id for d in found.denied] == ["poor"]


async def test_an_allocation_must_cover_the_other_price_too(ledger: Ledger) -> None:
    store = ledger.store
    await ledger.set_balance("org:corp", 1_000)
    await ledger.set_balance("user:bea", 1_000)
    await acts.set_policy(store, "org:corp", "allocated", **by())
    await acts.allocate(store, "org:corp", "user:bea", 60 * MICRO, **by())
    assert initiated(await ledger.request("run", user="bea", org="corp"))
    (denied,) = (await priced_again(ledger, book=book())).denied
    assert (denied.reason, denied.required, denied.had) == (
        "allocation_exhausted",
        90 * MICRO,
        60 * MICRO,
    )


async def test_what_was_free_and_would_cost_is_denied_to_who_had_nothing(ledger: Ledger) -> None:
    phases = {"phases": {"spellcheck": {"per": "item", "credits": 1}}}
    await ledger.request("free", pipeline="nlp", phases=["spellcheck"], user="bea", items=3)
    await ledger.grant("user:cleo", 3)
    await ledger.request("paid", pipeline="nlp", phases=["spellcheck"], user="cleo", items=3)
    await ledger.request("gone", pipeline="nlp", phases=["nlp"], user="cleo", items=3)
    found = await priced_again(ledger, book=phases)
    assert [(d.pipeline_id, d.reason, d.required) for d in found.denied] == [
        ("free", "insufficient_credits", 3 * MICRO),
        ("gone", "unknown_price", None),
    ]


async def test_a_period_is_what_was_charged_in_it(ledger: Ledger) -> None:
    await ledger.usage(user="bea", units=3)
    now = datetime.now(UTC)
    pool, change = ledger.store.pool, Change(book=book())
    assert (await simulate(pool, change, now + timedelta(hours=1))).total() == Payer()
    assert (await simulate(pool, change, None, now - timedelta(hours=1))).total() == Payer()
    found = await simulate(pool, change, now - timedelta(hours=1), now + timedelta(hours=1))
    assert found.total().events == 1


async def test_nothing_is_written_and_a_book_that_is_none_is_refused(ledger: Ledger) -> None:
    await everything(ledger)
    rows = "SELECT (SELECT count(*) FROM entries) + (SELECT count(*) FROM outcomes)"
    before = await ledger.store.pool.fetchval(rows)
    moves: list[tuple[int, int]] = []
    await simulate(ledger.store.pool, Change(margin=2), None, None, lambda *m: moves.append(m))
    assert await ledger.store.pool.fetchval(rows) == before
    assert moves[-1][0] > 0
    with pytest.raises(InvalidBook):
        await priced_again(ledger, book={"phases": {"x": {"per": "hour", "credits": 1}}})


async def test_the_command_shows_payers_totals_and_denials(
    ledger: Ledger, stack: Stack, database_url: str, tmp_path: Path
) -> None:
    commands = Commands(stack, database_url)
    await ledger.set_balance("user:bea", 50)
    await ledger.request("run", user="bea", items=10)
    await ledger.usage("run", user="bea", units=45)
    file = tmp_path / "book.json"
    file.write_text(json.dumps(book()))
    found = await commands.json("prices", "simulate", "--book", str(file))
    assert found["payers"] == [
        {"payer": "user:bea", "events": 1, "charged": 45, "would_be": 90, "difference": 45}
    ]
    assert (found["difference"], found["denied_total"]) == (45, 1)
    (denied,) = found["denied"]
    assert (denied["user"], denied["required_credits"], denied["available_credits"]) == (
        "user:bea",
        90,
        50,
    )
    shown = await commands.run("prices", "simulate", "--book", str(file))
    assert "+45" in shown
    assert "insufficient_credits" in shown
    same = await commands.json("prices", "simulate", "--increment", "0.01", "--margin", "2")
    assert (same["difference"], same["denied_total"]) == (0, 0)


@pytest.mark.parametrize(
    "arguments",
    [(), ("--increment", "0.05"), ("--increment", '"0.1"'), ("--margin", "0"), ("--margin", "x")],
    ids=str,
)
async def test_the_command_refuses_what_is_no_other_price(
    stack: Stack, database_url: str, arguments: tuple[str, ...]
) -> None:
    refused = await Commands(stack, database_url).json("prices", "simulate", *arguments, code=2)
    assert refused["error"] == "usage"
