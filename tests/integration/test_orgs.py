"""Organizations: allocations and the org's own credits go down together; who used what."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from tests.helpers.acting import by, refused, sound
from tests.helpers.ledger import Ledger, denied, initiated
from tests.helpers.proof import prove
from tests.helpers.stores import several_stores
from tests.helpers.world import World, finished

from faregate.ledger import acts, reading
from faregate.ledger.acts import Call
from faregate.ledger.reading_orgs import members, organization, usage
from faregate.ledger.store import Store
from faregate.testing.clocks import Clock

pytestmark = pytest.mark.stack

CREDIT = 1_000_000
_BOTH = """SELECT m.outcome_id, m.kind, sum(m.amount - e.amount) AS amount,
        sum(m.held_delta - e.held_delta) AS held
    FROM entries m JOIN members ON members.account_id = m.account_id
    LEFT JOIN entries e ON (e.account_id, e.outcome_id, e.kind) = (members.org_id, m.outcome_id, m.kind)
        AND e.id >> 14 = m.id >> 14
    WHERE m.kind IN ('hold', 'usage', 'release') GROUP BY 1, 2"""
ORG, ADA, BOB, EVE = "org:acme", "user:ada", "user:bob", "user:eve"


async def allocated(store: Store, balance: int, **limits: int) -> None:
    """Make an org that allocates, with what each member may spend."""
    await acts.set_balance(store, ORG, balance * CREDIT, **by())
    await acts.set_policy(store, ORG, "allocated", **by())
    for user, credits_ in limits.items():
        await acts.allocate(store, ORG, f"user:{user}", credits_ * CREDIT, **by())


async def spent(store: Store) -> dict[str, tuple[float, float, float]]:
    """Give what each member used, has held, has left."""
    found = await members(store, ORG)
    return {m["user_id"]: (m["used"], m["held"], m["remaining"]) for m in found}


async def test_an_allocated_org_through_kafka(here: World) -> None:
    """Decided, held, used and settled: the org and the member go down together, nobody else."""
    await allocated(here.store, 100, ada=60, bob=10)
    await acts.set_balance(here.store, EVE, 500 * CREDIT, **by())
    await acts.set_balance(here.store, BOB, 500 * CREDIT, **by())
    runs = [("ada", 10), ("bob", 10), ("eve", 10)]  # 45 credits each
    async with here.running("entitlements", "deduction", "progress", "relay"):
        await here.send(*(here.request(f"run-{u}", u, org="acme", items=n) for u, n in runs))
        await here.settled("entitlements")
        assert await spent(here.store) == {"ada": (0, 45, 15), "bob": (0, 0, 10)}
        await here.send(*(here.usage("ada", org="acme", pipeline="run-ada", units=20)
                          for _ in range(2)))  # fmt: skip
        await here.settled("deduction")
        await here.send(finished("run-ada", "ada", org_id="acme", usage_events=2))
        announced = await prove(here, "entitlements", "deduction", "progress")
    decisions = {
        e.data["pipeline_id"]: (e.type, e.data.get("reason"), e.data.get("status"))
        for topic, _, e in announced if topic in {"pipeline.initiated", "pipeline.denied"}
    }  # fmt: skip
    assert decisions == {
        "run-ada": ("PipelineInitiatedV1", None, None),
        "run-bob": ("PipelineDeniedV1", "allocation_exhausted", 402),
        "run-eve": ("PipelineDeniedV1", "no_allocation", 403),
    }
    denial = next(e.data for _, _, e in announced if e.data.get("reason") == "no_allocation")
    assert "Ask its admin for an allocation" in denial["message"]
    assert await spent(here.store) == {"ada": (40, 0, 20), "bob": (0, 0, 10)}
    org = await reading.account(here.store, ORG)
    assert (org["balance"], org["held"]) == (60, 0)
    assert (await reading.account(here.store, EVE))["balance"] == 500, "no fallback to the user"
    assert (await reading.account(here.store, BOB))["balance"] == 500
    pairs = await here.pool.fetch(_BOTH)
    assert len(pairs) == 4, "a hold, two usage entries, a release"
    assert all(p["held"] == 0 and p["amount"] == 0 for p in pairs), "in one transaction, by as much"


async def test_a_member_removed_in_mid_pipeline_settles_what_was_held(here: World) -> None:
    store = here.store
    await allocated(store, 100, ada=60)
    async with here.running("entitlements", "deduction", "progress", "relay"):
        await here.send(here.request("run", "ada", org="acme", items=10))
        await here.settled("entitlements")
        await acts.set_member(store, ORG, ADA, "removed", **by())
        assert await spent(store) == {"ada": (0, 45, 0)}, "what was free is gone at once"
        await here.send(here.usage("ada", org="acme", pipeline="run", units=30))
        await here.settled("deduction")
        assert await spent(store) == {"ada": (30, 15, 0)}
        await here.send(finished("run", "ada", org_id="acme", usage_events=1))
        await here.send(here.request("again", "ada", org="acme", items=2))
        announced = await prove(here, "entitlements", "deduction", "progress")
    assert await spent(store) == {}
    org = await reading.account(store, ORG)
    assert (org["balance"], org["held"], org["debt"]) == (70, 0, 0)
    reasons = [e.data["reason"] for _, _, e in announced if e.type == "PipelineDeniedV1"]
    assert reasons == ["no_allocation"]


async def test_allocations_may_exceed_the_org_and_spending_may_not(database_url: str) -> None:
    users = [f"u{n}" for n in range(20)]
    async with several_stores(database_url, 5, size=4) as stores:
        await allocated(stores[0], 100, **dict.fromkeys(users, 50))
        org = await organization(stores[0], ORG)
        assert (org["balance"], org["allocated"], org["members"]) == (100, 1000, 20)

        async def spend(n: int) -> str:
            done = await acts.deduct(stores[n % 5], f"user:{users[n % 20]}", ORG,
                                     amount=5 * CREDIT, key=f"{n}")  # fmt: skip
            return done.reason or done.result

        results = Counter(await asyncio.gather(*(spend(n) for n in range(60))))
        assert results == {"charged": 20, "insufficient_credits": 40}
        org = await organization(stores[0], ORG)
        assert (org["balance"], org["allocated"]) == (0, 900)
        await sound(stores[0])


async def test_one_member_cannot_spend_more_than_their_allocation_from_everywhere(
    database_url: str,
) -> None:
    async with several_stores(database_url, 8, size=2) as stores:
        await allocated(stores[0], 1000, ada=30)
        ledgers = [Ledger(s, f"lane {n}") for n, s in enumerate(stores)]
        asked = [ledgers[n % 8].request(user="ada", org="acme", items=2) for n in range(50)]
        results = await asyncio.gather(*asked)
        assert sum(map(initiated, results)) == 30
        assert Counter(map(denied, results))["allocation_exhausted"] == 20
        assert await spent(stores[0]) == {"ada": (0, 30, 0)}
        await sound(stores[0])


async def test_allocations_are_raised_lowered_reclaimed_and_expire(
    clocked: tuple[Store, Clock],
) -> None:
    store, clock = clocked
    soon = await clock.now() + timedelta(minutes=1)
    await allocated(store, 100, ada=10)
    await acts.allocate(store, ORG, ADA, 5 * CREDIT, **by(), expires_at=soon)
    await acts.reclaim(store, ORG, ADA, 3 * CREDIT, **by())
    assert await spent(store) == {"ada": (0, 0, 12)}
    await clock.advance(seconds=61, settle=False)
    assert await spent(store) == {"ada": (0, 0, 10)}, "the one that expires soonest was lowered"
    ledger = Ledger(store)
    assert initiated(await ledger.request("p", user="ada", org="acme", items=4))  # 6 credits
    assert await refused(acts.reclaim(store, ORG, ADA, 5 * CREDIT, **by())) == "below_held"
    await acts.reclaim(store, ORG, ADA, **by())
    assert await spent(store) == {"ada": (0, 6, 0)}
    await sound(store)


async def test_roles_change_and_who_was_never_a_member_cannot_be_removed(store: Store) -> None:
    await acts.set_member(store, ORG, ADA, "member", **by())
    await acts.set_member(store, ORG, ADA, "admin", **by())
    assert [(m["user_id"], m["role"]) for m in await members(store, ORG)] == [("ada", "admin")]
    assert await refused(acts.set_member(store, ORG, BOB, "removed", **by())) == "not_a_member"
    assert len(await members(store, ORG)) == 1
    assert await members(store, ORG, BOB) == []
    assert (await members(store, ORG, ADA))[0]["role"] == "admin"
    assert await members(store, "org:nobody") == []


async def test_in_a_pool_the_user_pays_when_the_org_cannot_and_never_both(store: Store) -> None:
    await acts.set_balance(store, ORG, 10 * CREDIT, **by())
    await acts.set_balance(store, ADA, 10 * CREDIT, **by())
    done = [await acts.deduct(store, ADA, ORG, amount=6 * CREDIT, key=f"{n}") for n in range(3)]
    assert [d.payer for d in done] == [ORG, ADA, None]


async def _some_usage(store: Store) -> None:
    """Two members, a phase and two models, a deduction, one part as debt, two refunds."""
    await allocated(store, 50, ada=40, bob=40)
    ledger = Ledger(store)
    await ledger.usage(user="ada", org="acme", units=7, usage_id="a1")
    await ledger.usage(user="bob", org="acme", units=3, usage_id="b1")
    for n, (user, model) in enumerate(
        [("ada", "gpt-4o-mini"), ("ada", "gpt-4"), ("bob", "gpt-4o-mini")]
    ):
        await ledger.usage(user=user, org="acme", phase=None, units=None, model=model,
                           input_tokens=10, output_tokens=7, usage_id=f"m{n}")  # fmt: skip
    await acts.deduct(store, BOB, ORG, amount=1_234_567, key="d")
    call = Call("gpt-4o-mini", 1000, byok=True)
    await acts.deduct(store, BOB, ORG, call=call, key="own key")
    await acts.refund(store, usage_id="a1", **by())
    await acts.refund(store, usage_id="m1", **by())
    await ledger.usage(user="ada", org="acme", units=60, usage_id="a2")  # more than there is


async def _ledgers_sums(store: Store) -> tuple[int, int]:
    row = await store.pool.fetchrow(
        """SELECT (sum(e.debt_delta - e.amount) FILTER (WHERE e.kind = 'usage'))::bigint,
                  (sum(e.amount - e.debt_delta) FILTER (WHERE e.kind = 'refund'))::bigint
           FROM entries e JOIN subjects s USING (account_id) WHERE s.subject = $1""", ORG)  # fmt: skip
    return int(row[0]), int(row[1])


@pytest.mark.parametrize(
    "groups",
    [(), ("member",), ("model",), ("phase",), ("day",), ("member", "model", "phase", "day")],
    ids=",".join,
)
async def test_whatever_usage_is_grouped_by_its_total_is_the_ledgers(
    store: Store, groups: tuple[str, ...]
) -> None:
    await _some_usage(store)
    found = await usage(store, ORG, groups)
    charged, refunded = await _ledgers_sums(store)
    total = found["total"]
    assert (_micro(total["charged"]), _micro(total["refunded"])) == (charged, refunded)
    assert _micro(total["net"]) == charged - refunded
    if groups:
        for name in ("charged", "refunded", "net"):
            assert sum(_micro(row[name]) for row in found["rows"]) == _micro(total[name])
        assert sum(row["events"] for row in found["rows"]) == total["events"] == 8
    account = await reading.account(store, ORG)
    assert 50 - account["balance"] + account["debt"] == total["net"]
    await sound(store)


def _micro(amount: float) -> int:
    return round(amount * CREDIT)


async def test_usage_says_who_used_what_and_what_came_back(store: Store) -> None:
    await _some_usage(store)

    async def rows(*groups: str) -> dict[tuple[Any, ...], tuple[float, float]]:
        names = {"member": "user_id"}
        found = await usage(store, ORG, groups)
        return {
            tuple(r[names.get(g, g)] for g in groups): (r["charged"], r["refunded"])
            for r in found["rows"]
        }

    assert await rows("member") == {("ada",): (75.26, 15.16), ("bob",): (4.334567, 0)}
    assert await rows("model") == {
        (None,): (71.234567, 7), ("gpt-4",): (8.16, 8.16), ("gpt-4o-mini",): (0.2, 0),
    }  # fmt: skip
    assert (await rows("phase", "member"))["cj_assessment", "ada"] == (67, 7)
    day = datetime.now(UTC).date().isoformat()
    assert set(await rows("day")) <= {
        (day,),
        ((datetime.now(UTC) - timedelta(1)).date().isoformat(),),
    }


async def test_periods_add_up_and_overlap_nowhere(store: Store) -> None:
    await _some_usage(store)
    times = [r["at"] for r in await store.pool.fetch("SELECT DISTINCT at FROM entries ORDER BY at")]
    cuts = [None, *times, None]
    parts = [await usage(store, ORG, (), since, until) for since, until in pairwise(cuts)]
    whole = (await usage(store, ORG))["total"]
    for name in ("charged", "refunded", "events"):
        assert sum(_micro(p["total"][name]) for p in parts) == _micro(whole[name])
    nothing = await usage(store, ORG, ("member",), times[-1] + timedelta(days=1))
    assert (nothing["rows"], nothing["total"]["events"]) == ([], 0)
    with pytest.raises(ValueError, match="member, model, phase, day"):
        await usage(store, ORG, ("team",))
