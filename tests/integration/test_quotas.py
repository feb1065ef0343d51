"""Calls are counted exactly, periods renew exactly, alerts are raised once: many at once."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import pytest
from tests.helpers.acting import by, sound
from tests.helpers.ledger import Ledger, denied, initiated
from tests.helpers.stores import several_stores
from tests.helpers.world import World

from faregate.events import Event
from faregate.ledger import acts, reading
from faregate.ledger.acts import Call, Charge
from faregate.ledger.core.accounts import PERIOD
from faregate.ledger.reading import bring_to_now
from faregate.ledger.store import Store
from faregate.ledger.stored import plan_of, plan_text

pytestmark = pytest.mark.stack

CREDIT = 1_000_000
ADA = "user:ada"
CALL = Call("gpt-4o-mini", 10)
BYOK = Call("gpt-4o-mini", 10, byok=True)
LANES = 8


async def set_back(url: str, subject: str, days: float) -> None:
    """Let an account's period have begun so much earlier, as if that time had passed since."""
    owner = await asyncpg.connect(url)
    row = await owner.fetchrow("SELECT a.id, a.plan FROM accounts a JOIN subjects s "
                               "ON s.account_id = a.id WHERE s.subject = $1", subject)  # fmt: skip
    plan = plan_of(row["plan"])
    assert plan.period_start
    earlier = type(plan)(**{n: getattr(plan, n) for n in plan.__dataclass_fields__} |
                         {"period_start": plan.period_start - timedelta(days=days)})  # fmt: skip
    await owner.execute(
        "UPDATE accounts SET plan = $2, due_at = clock_timestamp() WHERE id = $1",
        row["id"], plan_text(earlier),
    )  # fmt: skip
    await owner.close()


async def _call(store: Store, n: int, call: Call = CALL) -> Charge:
    return await acts.deduct(store, ADA, call=call, key=f"call {n}", counts=True)


async def test_of_a_thousand_calls_by_a_hundred_callers_seven_hundred_pass(
    database_url: str,
) -> None:
    async with several_stores(database_url, LANES, size=5) as stores:
        await acts.set_tier(stores[0], ADA, "trial", **by())
        await acts.set_balance(stores[0], ADA, 1000 * CREDIT, **by())

        async def caller(lane: int) -> list[Charge]:
            return [await _call(stores[lane % LANES], lane * 10 + n) for n in range(10)]

        done = [c for calls in await asyncio.gather(*map(caller, range(100))) for c in calls]
        assert Counter(c.result for c in done) == {"charged": 700, "refused": 300}
        refusals = {(c.reason, c.body["status"], c.body["calls"]) for c in done if c.reason}
        assert refusals == {("quota_exceeded", 429, 700)}
        found = await reading.account(stores[0], ADA)
        assert (found["calls_used"], found["calls_remaining"]) == (700, 0)
        assert found["balance"] == 1000 - 700 * 0.1
        resets = {c.body["resets_at"] for c in done if c.reason}
        assert {datetime.fromisoformat(at) for at in resets} == {
            datetime.fromisoformat(found["period_end"])
        }
        await sound(stores[0])


async def test_the_701st_is_refused_with_the_reset_time_and_the_next_period_begins_anew(
    store: Store, database_url: str
) -> None:
    await acts.set_tier(store, ADA, "trial", **by())
    ledger = Ledger(store)
    for at in range(0, 700, 100):
        made = [ledger.make.usage(user="ada", phase=None, units=None, model="gpt-4o-mini",
                                  input_tokens=1, output_tokens=0, byok=True)
                for _ in range(100)]  # fmt: skip
        await ledger.apply(*made)
        assert (await reading.quota(store, ADA))["used"] == at + 100
    refused = await _call(store, 701, BYOK)
    assert refused.reason == "quota_exceeded"
    quota = await reading.quota(store, ADA)
    assert (quota["limit"], quota["remaining"]) == (700, 0)
    assert refused.body["resets_at"] == quota["period_end"].replace("+00:00", "Z")
    assert denied(await ledger.request(user="ada", items=1)) == "quota_exceeded"
    await sound(store)

    await set_back(database_url, ADA, 31)
    assert (await reading.quota(store, ADA))["used"] == 0
    assert (await _call(store, 702, BYOK)).result == "charged"
    assert (await reading.quota(store, ADA))["used"] == 1


async def test_calls_with_ones_own_key_cost_nothing_and_count(store: Store) -> None:
    await acts.set_tier(store, ADA, "trial", **by())
    await acts.set_quota(store, ADA, 2, **by())
    results = [await _call(store, n, BYOK) for n in range(3)]
    assert [(r.result, r.cost) for r in results] == [
        ("charged", 0), ("charged", 0), ("refused", 0)]  # fmt: skip
    assert (await reading.account(store, ADA))["balance"] == 5


async def test_a_quota_of_ones_own_counts_until_it_is_taken_back(store: Store) -> None:
    await acts.set_tier(store, ADA, "trial", **by())
    await acts.set_quota(store, ADA, 0, **by())
    assert (await _call(store, 1)).reason == "quota_exceeded"
    await acts.set_quota(store, ADA, None, **by())
    assert (await _call(store, 2)).result == "charged"
    await acts.set_tier(store, ADA, "enterprise", **by())
    quota = await reading.quota(store, ADA)
    assert (quota["limit"], quota["remaining"]) == (None, None)


async def test_a_request_of_ones_own_counts_once_and_one_for_an_org_does_not(store: Store) -> None:
    await acts.set_tier(store, ADA, "trial", **by())
    await acts.set_balance(store, "org:acme", 10 * CREDIT, **by())
    ledger = Ledger(store)
    assert initiated(await ledger.request(user="ada", items=2))
    assert initiated(await ledger.request(user="ada", org="acme", items=2))
    assert (await reading.quota(store, ADA))["used"] == 1


@pytest.mark.parametrize(("days", "periods"), [(30, 1), (45, 1), (95, 3)])
async def test_twenty_refreshes_at_once_renew_each_period_once(
    database_url: str, days: float, periods: int
) -> None:
    async with several_stores(database_url, 20, size=1) as stores:
        first = stores[0]
        await acts.set_tier(first, ADA, "starter", **by())
        await acts.grant(first, ADA, "purchase", 7 * CREDIT, **by())
        await acts.deduct(first, ADA, amount=5 * CREDIT, key="d", counts=True)
        start = datetime.fromisoformat((await reading.account(first, ADA))["period_start"])
        await set_back(database_url, ADA, days)
        await asyncio.gather(*(bring_to_now(s, ADA) for s in stores))
        found = await reading.account(first, ADA)
        entries = await reading.history(first, ADA, 100)
        renewals = [e for e in entries if e.get("reason") == "renewal"]
        assert len(renewals) == periods
        # What is left of the tier's own grant is replaced, what was bought stays.
        assert (found["balance"], found["calls_used"]) == (27, 0)
        began = start - timedelta(days=days) + periods * PERIOD
        assert datetime.fromisoformat(found["period_start"]) == began
        live = [g for g in await reading.grants(first, ADA) if g["state"] == "live"]
        assert sorted(g["remaining"] for g in live) == [7, 20]
        assert sum(e["amount"] for e in entries) == 27


async def test_deductions_during_a_renewal_never_see_two_grants_of_the_tier(
    database_url: str,
) -> None:
    async with several_stores(database_url, LANES) as stores:
        await acts.set_tier(stores[0], ADA, "starter", **by())
        await set_back(database_url, ADA, 95)
        done = await asyncio.gather(
            *(acts.deduct(stores[n % LANES], ADA, amount=CREDIT, key=f"{n}") for n in range(30)),
            *(bring_to_now(s, ADA) for s in stores),
        )
        results = [d.result for d in done if isinstance(d, Charge)]
        assert Counter(results) == {"charged": 20, "refused": 10}
        assert (await reading.account(stores[0], ADA))["balance"] == 0


async def test_a_downgrade_happens_when_its_period_begins(store: Store, database_url: str) -> None:
    await acts.set_tier(store, ADA, "professional", **by())
    await acts.set_tier(store, ADA, "starter", **by())
    await set_back(database_url, ADA, 30)
    found = await reading.account(store, ADA)
    assert (found["tier"], found["next_tier"], found["balance"]) == ("starter", None, 20)


async def _alerts(here: World) -> list[tuple[str, dict[str, Any]]]:
    events: dict[str, Event] = {e.id: e for _, _, e in await here.announced("credits.alerts")}
    return [(e.type, e.data) for e in events.values()]


async def test_alerts_are_announced_once_for_each_crossing(here: World) -> None:
    store = here.store
    await acts.set_alerts(store, ADA, low=50 * CREDIT, percent=20, **by())
    await acts.grant(store, ADA, "purchase", 100 * CREDIT, **by())
    async with here.running("deduction", "relay"):
        await here.send(*(here.usage("ada", units=10) for _ in range(12)))
        await here.settled("deduction")
    raised = await _alerts(here)
    assert [(t, d["account"], d["balance"], d["debt"]) for t, d in raised] == [
        ("CreditsLowV1", ADA, 50, 0),
        ("CreditsExhaustedV1", ADA, 0, 0),
        ("DebtIncurredV1", ADA, 0, 10),
        ("DebtIncurredV1", ADA, 0, 20),
    ]
    assert raised[0][1]["threshold"] == 50

    # A grant pays the debt and arms them again; 20 % of what it brought is below 50 credits.
    await acts.grant(store, ADA, "purchase", 120 * CREDIT, **by())
    async with here.running("deduction", "relay"):
        await here.send(*(here.usage("ada", units=30) for _ in range(3)))
        await here.settled("deduction")
    again = (await _alerts(here))[len(raised) :]
    assert [(t, d["balance"]) for t, d in again] == [("CreditsLowV1", 40)]
    assert (await reading.alerts(store, ADA))["raised"] == ["low"]
    ledger = [e for _, _, e in await here.announced("credits.ledger")]
    paid = [e.data["debt_delta"] for e in ledger if e.type == "DebtPaidV1"]
    assert paid == [-20]
    await sound(store)


async def test_a_percentage_counts_of_what_the_newest_grant_brought(store: Store) -> None:
    await acts.set_alerts(store, ADA, low=None, percent=25, **by())
    await acts.grant(store, ADA, "purchase", 200 * CREDIT, **by())
    assert (await reading.alerts(store, ADA))["threshold"] == 50
    await acts.deduct(store, ADA, amount=149 * CREDIT, key="1")
    assert (await reading.alerts(store, ADA))["raised"] == []
    await acts.deduct(store, ADA, amount=CREDIT, key="2")
    assert (await reading.alerts(store, ADA))["raised"] == ["low"]
