"""Prices through the whole product: the increment, late prices, and sums that are exact."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any
from uuid import uuid4

import pytest
from tests.helpers.acting import by, refused, sound
from tests.helpers.kafka import Raw
from tests.helpers.ledger import Ledger, initiated
from tests.helpers.processes import faregate_processes
from tests.helpers.stores import several_stores
from tests.helpers.world import World, raw, until

from faregate.ledger import acts, pricing, reading
from faregate.ledger.acts import Call
from faregate.ledger.core import Rejected
from faregate.ledger.core.prices import InvalidIncrement
from faregate.ledger.pricing import apply_prices, calculate, increment, set_increment
from faregate.ledger.queries import SQL
from faregate.ledger.reading_audit import audit
from faregate.ledger.reading_orgs import usage
from faregate.ledger.store import Store
from faregate.testing.topics import kafka_admin

pytestmark = pytest.mark.stack

CREDIT = 1_000_000
ADA, ORG = "user:ada", "org:acme"
LATER = timedelta(days=3)
MINI = {"kind": "vendor", "input_usd_per_1k": 0.00015, "output_usd_per_1k": 0.0006}
PHASES = {"cj_assessment": {"per": "pair", "credits": 1}}


async def now_of(store: Store) -> datetime:
    found: datetime = await store.pool.fetchval(SQL["now"])
    return found


def call(n: int, user: str = "ada", partition: int | None = None, **more: Any) -> Raw:
    """Make a small call of a model; its vendor price rounds up to one increment."""
    data = {
        "usage_id": f"call-{uuid4().hex}",
        "user_id": user,
        "occurred_at": datetime.now(UTC).isoformat(),
        "model": "openai/gpt-4o-mini",
        "input_tokens": 1 + n % 200,
        "output_tokens": n % 50,
        **more,
    }
    made = raw("usage.recorded", "UsageRecordedV1", data, data["usage_id"])
    return Raw(made.topic, made.value, made.key, made.headers, partition)


async def test_ten_thousand_deductions_of_a_tenth_leave_exactly_a_thousand_less(
    here: World,
) -> None:
    await acts.set_balance(here.store, ADA, 5000 * CREDIT, **by())
    began = await now_of(here.store)
    await here.send(*(call(n) for n in range(10_000)))
    async with here.running("deduction", "relay"):
        await here.settled("deduction", timeout_s=90)
    account = await reading.account(here.store, ADA)
    assert (account["balance"], account["debt"]) == (4000, 0)
    row = await here.pool.fetchrow(
        "SELECT count(*), sum(amount), min(amount), max(amount) FROM entries WHERE kind = 'usage'"
    )
    assert tuple(row) == (10_000, -1000 * CREDIT, -100_000, -100_000)
    whole = await usage(here.store, ADA, ("model", "day"), began)
    assert (whole["total"]["charged"], whole["total"]["events"]) == (1000, 10_000)
    times = await here.pool.fetch("SELECT DISTINCT at FROM entries ORDER BY at")
    cuts = [began, *(r["at"] for r in times[:: max(len(times) // 20, 1)]), None]
    parts = [
        (await usage(here.store, ADA, (), a, b))["total"]["charged"] for a, b in pairwise(cuts)
    ]
    assert sum(Decimal(str(p)) for p in parts) == 1000, "date ranges add up to the last decimal"
    ledger = await here.announced("credits.ledger")
    announced = {e.id: e.data["amount"] for _, _, e in ledger if e.type == "CreditsDeductedV1"}
    assert Counter(announced.values()) == {-0.1: 10_000}
    await sound(here.store)


async def test_a_new_increment_is_in_force_at_once_in_two_processes_and_after_a_restart(
    here: World,
) -> None:
    await acts.set_balance(here.store, ADA, 1000 * CREDIT, **by())

    async def used(count: int = 6) -> list[tuple[int, float]]:
        """Let both processes charge some calls; give their price versions and amounts."""
        seen = await here.pool.fetchval("SELECT coalesce(max(sequence), 0) FROM entries")
        await here.send(*(call(n, partition=n % 2) for n in range(count)))
        await here.settled("deduction")
        entries = await reading.history(here.store, ADA, count)
        assert entries[-1]["sequence"] == seen + 1
        return [(e["price_version"], e["amount"]) for e in entries]

    names = ("deduction", "deduction#2", "relay")
    async with faregate_processes(here.environment(), *names) as processes:
        await until(lambda: _each_has_one(here), what="both processes to have a partition")
        assert set(await used()) == {(1, -0.1)}
        done = await set_increment(here.store, 0.01, actor="grace")
        assert set(await used()) == {(2, -0.01)}, "the very next calls, in both"
        await set_increment(here.store, 1.0, actor="grace")
        assert set(await used()) == {(3, -1)}
        for name in names[:2]:
            await processes.stop(name)
            processes.start(name)
        await processes.wait_ready()
        assert set(await used()) == {(3, -1)}, "and after a restart"
    assert (done.old_micro, done.micro, done.versions) == (100_000, 10_000, (2,))
    (last, first, _) = await audit(here.store)
    assert (first["actor"], first["action"], first["result"]) == ("grace", "set_increment", "set")
    assert first["metadata"] == {"old": 0.1, "new": 0.01, "versions": [2]}
    assert last["metadata"] == {"old": 0.01, "new": 1.0, "versions": [3]}
    found = await increment(here.store)
    assert (found.micro, found.updated_by) == (CREDIT, "grace")
    assert found.updated_at <= await now_of(here.store)
    await sound(here.store)


async def _each_has_one(here: World) -> bool:
    async with kafka_admin(here.kafka) as client:
        (answer,) = await client.describe_consumer_groups([here.cluster.group("deduction")])
    (group,) = answer.groups
    return "Stable" in group and len(group[5]) == 2


async def test_stores_that_have_priced_before_use_the_new_increment_for_their_next_call(
    database_url: str,
) -> None:
    async with several_stores(database_url, 6) as stores:
        await acts.set_balance(stores[0], ADA, 1000 * CREDIT, **by())
        for n, (value, cost) in enumerate([(0.01, 10_000), (1.0, CREDIT), (0.1, 100_000)]):
            await set_increment(stores[n], value, actor="grace")
            done = await asyncio.gather(*(
                acts.deduct(s, ADA, call=Call("gpt-4o-mini", 100), key=f"{n} {m}")
                for m, s in enumerate(stores)
            ))  # fmt: skip
            assert {(d.cost, d.result) for d in done} == {(cost, "charged")}
            for m, s in enumerate(stores):
                ledger = Ledger(s, f"lane {m}")
                await ledger.usage(user="ada", phase=None, units=None, model="gpt-4o-mini",
                                   input_tokens=100, output_tokens=0)  # fmt: skip
                (entry, *_) = await reading.history(s, ADA, 1)
                assert entry["amount"] == -cost / CREDIT


@pytest.mark.parametrize(
    "value",
    [0.05, "0.1", None, math.nan, math.inf, -1, 0, True, 0.010001, 10, [0.1], Decimal("0.2")],
)
async def test_other_increments_are_refused_with_those_that_are_allowed(
    store: Store, value: object
) -> None:
    with pytest.raises(InvalidIncrement, match=r"0\.01, 0\.1, 1"):
        await set_increment(store, value, actor="mallory")
    assert (await increment(store)).micro == 100_000
    assert await store.pool.fetchval("SELECT max(version) FROM price_versions") == 1


async def test_the_same_increment_again_makes_no_version_and_is_logged(store: Store) -> None:
    done = await set_increment(store, 0.1, actor="grace")
    assert (done.changed, done.versions) == (False, ())
    assert [a["result"] for a in await audit(store)] == ["unchanged"]


async def test_prices_to_come_get_the_new_increment_too(store: Store) -> None:
    now = await now_of(store)
    cheap = {"phases": PHASES, "models": {"openai/gpt-4o-mini": MINI | {"margin": 1}}}
    dear = {"phases": PHASES, "models": {"openai/gpt-4o-mini": MINI | {"margin": 9}}}
    await apply_prices(store, cheap, now + LATER, by="x")
    await apply_prices(store, dear, now + 2 * LATER, by="x")
    await apply_prices(store, cheap, now + 2 * LATER, by="x")  # replaces the one before
    done = await set_increment(store, 0.01, actor="grace")
    assert done.versions == (5, 6, 7)
    books = await pricing.price_books(store.pool)
    for when, version, margin in [(now, 1, None), (now + LATER, 6, 1), (now + 2 * LATER, 7, 1)]:
        book = books.in_force(when + timedelta(seconds=0))
        assert book
        if version > 1:
            assert (book.version, book.increment) == (version, 10_000)
            assert book.models["openai/gpt-4o-mini"].margin == margin
    current = books.in_force(await now_of(store))
    assert current
    assert (current.version, current.increment) == (5, 10_000)
    assert books.versions[1].increment == 100_000, "versions are never changed"


async def test_a_live_hold_keeps_the_increment_it_was_made_with(store: Store) -> None:
    await acts.set_balance(store, ADA, 100 * CREDIT, **by())
    ledger = Ledger(store)
    assert initiated(await ledger.request("p", user="ada"))
    await set_increment(store, 1.0, actor="grace")
    small: dict[str, Any] = {"user": "ada", "phase": None, "units": None, "model": "gpt-4o-mini",
             "input_tokens": 100, "output_tokens": 0}  # fmt: skip
    await ledger.usage("p", **small)
    await ledger.usage(**small)
    await ledger.usage(**small, occurred_at=datetime.now(UTC) - timedelta(hours=1))
    late, own, held, *_ = await reading.history(store, ADA, 4)
    assert [(e["price_version"], e["amount"]) for e in (held, own, late)] == [
        (1, -0.1), (2, -1), (1, -0.1)]  # fmt: skip


async def test_a_book_must_round_as_the_product_does_and_keeps_how_it_did(store: Store) -> None:
    await set_increment(store, 0.01, actor="grace")
    with pytest.raises(Rejected, match=r"the increment in force is 0\.01") as caught:
        await apply_prices(store, {"phases": PHASES, "increment": 0.1}, None, by="x")
    assert caught.value.code == "increment_differs"
    done = await apply_prices(store, {"phases": PHASES}, None, by="linus")
    assert done.book.increment == 10_000
    document = await pricing.prices(store)
    assert document
    assert document["increment"] == 0.01, "it is in the stored document"
    again = {k: document[k] for k in
             ("pipelines", "phases", "vendor", "increment", "models", "tiers")}  # fmt: skip
    assert (await apply_prices(store, again, None, by="linus")).book.version == 4
    log = [(a["actor"], a["action"], a["result"]) for a in await audit(store)]
    assert log == [
        ("linus", "apply_prices", "applied"),
        ("linus", "apply_prices", "applied"),
        ("x", "apply_prices", "refused: increment_differs"),
        ("grace", "set_increment", "set"),
    ]
    await sound(store)


async def test_books_and_increments_from_everywhere_at_once_end_in_step(database_url: str) -> None:
    async with several_stores(database_url, 8) as stores:

        async def apply(n: int) -> None:
            await apply_prices(stores[n % 8], {"phases": PHASES}, None, by=f"p{n}")

        async def change(n: int) -> None:
            await set_increment(stores[n % 8], (0.01, 0.1, 1.0)[n % 3], actor=f"i{n}")

        await asyncio.gather(*(apply(n) for n in range(16)), *(change(n) for n in range(16)))
        books, now = await stores[0].books()
        book = books.in_force(now)
        assert book
        assert book.increment == (await increment(stores[0])).micro
        assert sorted(books.versions) == list(range(1, len(books.versions) + 1))
        assert len(await audit(stores[0], limit=100)) == 32
        await sound(stores[0])


@pytest.mark.parametrize(
    ("tokens", "increment_", "credits_"),
    # $0.00004 of the vendor's is $0.00006 after margin: 0.006 credits before it is rounded up.
    [(266, 0.1, 0.1), (266, 0.01, 0.01), (266, 1.0, 1), (0, 0.1, 0), (100_000, 0.1, 2.3)],
)
async def test_a_calculation_is_what_a_deduction_then_takes(
    store: Store, tokens: int, increment_: float, credits_: float
) -> None:
    await set_increment(store, increment_, actor="grace")
    await acts.set_balance(store, ADA, 10 * CREDIT, **by())
    quote = await calculate(store, model="gpt-4o-mini", input_tokens=tokens)
    assert quote.micro == credits_ * CREDIT
    assert quote.vendor_cost_usd == Decimal("0.00015") * tokens / 1000
    assert quote.increment_micro == increment_ * CREDIT
    done = await acts.deduct(store, ADA, call=Call("gpt-4o-mini", tokens), key="d")
    assert (done.cost, done.body["cost"]) == (quote.micro, quote.micro)
    (entry, *_) = await reading.history(store, ADA, 1)
    assert entry["price_version"] == quote.price_version


async def test_calculations_of_phases_and_of_tiers(store: Store) -> None:
    assert (await calculate(store, phase="cj_assessment", units=45)).micro == 45 * CREDIT
    book = {"phases": PHASES, "models": {"house/tutor": {"kind": "tier_rate"}}}
    await apply_prices(store, book, None, by="x")
    await acts.set_tier(store, ADA, "professional", **by())
    quote = await calculate(store, model="tutor", input_tokens=2000, user=ADA)
    assert (quote.micro, quote.tier) == (10_000, "professional")
    nowhere: list[dict[str, Any]] = [{"model": "gpt-99"}, {"phase": "poetry"}, {"model": "tutor"}]
    for unknown in nowhere:
        assert await refused(calculate(store, **unknown)) == "unknown_price"


async def test_the_waiting_usage_of_a_model_is_counted_when_its_price_is_applied(
    store: Store,
) -> None:
    ledger = Ledger(store)
    for model in ("new-model", "other-model"):
        await ledger.usage(user="ada", phase=None, units=None, model=model,
                           input_tokens=10, output_tokens=0)  # fmt: skip
    book = {"phases": PHASES, "models": {"lab/new-model": MINI}}
    done = await apply_prices(store, book, None, by="x")
    assert (done.unpriced, done.priced) == (2, 1)
