"""What time does to credits: trial credits end, and a sweeper that was away catches up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from tests.helpers.ledger import Ledger, denied, initiated, new_id
from tests.helpers.servers import Stack, drop_database, fresh_database
from tests.helpers.world import World, registered, until, world

from faregate.consumers import sweeper
from faregate.consumers.sweeper import Sweeper, SweeperSettings, refresh_due
from faregate.ledger.batch import Refs, Submission
from faregate.ledger.core import AddGrant, Command, Identity, Rules, SetTier, Welcome
from faregate.ledger.database import make_pool
from faregate.ledger.store import Store, open_store
from faregate.ledger.verify import verify
from faregate.testing.clocks import Clock

pytestmark = pytest.mark.stack

MANY = 1000
ANY_IDENTITY = Identity(bytes(16), bytes(16))
RENEWED = "SELECT count(*) FROM entries WHERE reason = 'renewal'"
EXPIRED = "SELECT count(*) FROM entries WHERE kind = 'expiry'"


@pytest.fixture
async def trials(clocked: tuple[Store, Clock]) -> Ledger:
    """A ledger whose welcome credits live for a day."""
    rules = Rules(provisioning="auto", welcome=Welcome(days=1))
    return Ledger(await open_store(clocked[0].pool, rules))


@pytest.fixture
def clock(clocked: tuple[Store, Clock]) -> Clock:
    """The time of `trials`."""
    return clocked[1]


async def _apply(store: Store, commands: Sequence[Command]) -> None:
    """Apply commands in batches, each under an identity of its own."""
    made = []
    for command in commands:
        event_id = new_id("at")
        key = store.keys.event("tests", event_id)
        made.append(
            Submission(replace(command, identity=Identity(key, key)), Refs("tests", event_id))
        )
    for at in range(0, len(made), 250):
        await store.apply(made[at : at + 250])


async def test_unused_trial_credits_are_gone_at_the_next_decision(
    trials: Ledger, clock: Clock
) -> None:
    in_two_days = datetime.now(UTC) + timedelta(days=2)
    assert initiated(await trials.request(items=2, expires_at=in_two_days))
    await trials.usage()
    await clock.advance(days=1, settle=False)
    assert denied(await trials.request(items=2)) == "insufficient_credits"
    balance = await trials.balance("user:alice")
    assert (balance.balance, balance.held) == (1, 1), "what a pipeline holds is still there for it"
    assert (await verify(trials.store.pool)).ok


async def test_unused_trial_credits_are_swept_when_nobody_comes(
    trials: Ledger, clock: Clock
) -> None:
    for user in ("ada", "bob"):
        assert initiated(await trials.request(user=user, pipeline="nlp"))
    assert (await trials.balance("user:ada")).balance == 5
    await clock.advance(days=1, settle=False)
    assert await refresh_due(trials.store) == 2
    assert (await trials.balance("user:ada")).balance == 0
    assert await refresh_due(trials.store) == 0
    assert not initiated(await trials.request(user="ada", items=2)), "and no new ones come"
    assert (await verify(trials.store.pool)).ok


async def test_a_thousand_expired_grants_are_swept_at_once_and_once(
    clocked: tuple[Store, Clock],
) -> None:
    store, clock = clocked
    until_ = datetime.now(UTC) + timedelta(hours=1)
    await _apply(
        store,
        [
            AddGrant(ANY_IDENTITY, f"user:u{n}", "bonus", 1_000_000, expires_at=until_)
            for n in range(MANY)
        ],
    )
    await clock.advance(hours=1, settle=False)
    another = await open_store(store.pool, store.rules)
    both = await asyncio.gather(refresh_due(store), refresh_due(another))
    assert sum(both) == MANY
    assert await store.pool.fetchval(EXPIRED) == MANY
    assert await store.pool.fetchval("SELECT sum(balance) FROM accounts") == 0
    assert (await verify(store.pool)).ok


async def _away_for(store: Store, days: int) -> None:
    """Let everybody's period have started so many days earlier."""
    await store.pool.execute(
        "UPDATE accounts SET due_at = due_at - make_interval(days => $1), plan = jsonb_set("
        " plan, '{period_start}', to_jsonb((plan ->> 'period_start')::bigint - $2))",
        days,
        days * 86_400_000_000,
    )


async def test_a_thousand_tiers_are_renewed_for_each_period_that_was_missed(store: Store) -> None:
    await _apply(store, [SetTier(ANY_IDENTITY, f"user:u{n}", "starter") for n in range(MANY)])
    await _away_for(store, 65)
    assert await refresh_due(store) == MANY
    assert await store.pool.fetchval(RENEWED) >= 2 * MANY
    balances = await store.pool.fetch("SELECT DISTINCT balance FROM accounts")
    assert [r["balance"] for r in balances] == [20_000_000], "one period's credits, not three"
    assert await refresh_due(store) == 0


async def test_accounts_that_stay_due_hold_up_nobody(
    clocked: tuple[Store, Clock], monkeypatch: pytest.MonkeyPatch
) -> None:
    """More of them than fit a page, and all before the others; each sweep looks at them once."""
    store, clock = clocked
    monkeypatch.setattr(sweeper, "_PAGE", 10)
    ledger = Ledger(store)
    await ledger.apply(*(ledger.make.set_balance(f"user:stuck{n}", 1) for n in range(25)))
    await store.pool.execute("UPDATE accounts SET due_at = 'epoch'")
    soon = datetime.now(UTC) + timedelta(hours=1)
    due = [AddGrant(ANY_IDENTITY, f"org:o{n}", "bonus", 10**6, expires_at=soon) for n in range(25)]
    await _apply(store, due)
    await clock.advance(hours=2, settle=False)
    async with asyncio.timeout(10):
        assert await refresh_due(store) == 25
        assert await refresh_due(store) == 0


async def test_a_sweep_in_hand_ends_soon_when_told_to(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeper, "_PAGE", 1)
    await _apply(store, [SetTier(ANY_IDENTITY, f"user:u{n}", "starter") for n in range(20)])
    await _away_for(store, 31)
    sweeping = Sweeper(store, SweeperSettings())
    apply = sweeper._apply

    async def stop_at_the_third(
        store: Store, submissions: Sequence[Submission], *more: int | None
    ) -> int:
        done = await apply(store, submissions, *more)
        if await store.pool.fetchval(RENEWED) == 3:
            sweeping.stop()
        return done

    monkeypatch.setattr(sweeper, "_apply", stop_at_the_third)
    await sweeping.run()
    assert await store.pool.fetchval(RENEWED) == 3
    monkeypatch.undo()
    assert await refresh_due(store) == 17


async def test_after_a_restore_users_are_welcomed_as_they_were(
    stack: Stack, database_url: str
) -> None:
    """The lost decision rested on a registration: that one is read again first."""
    settings = {"provisioning": "auto", "welcome_by_referral": {"spring": 8.5}}
    async with world(stack.kafka, database_url) as here:
        async with here.running("entitlements", "provisioning", "relay", **settings):
            await here.send(registered("ada", referral="spring"))
            await here.settled("provisioning")
            await here.send(here.request(user="ada", items=4))
            await here.settled("entitlements")
        async with _restored(here, stack) as empty:
            async with empty.running("entitlements", "relay", **settings):
                await until(lambda: _noticed(empty), what="the restore to be noticed")
                await asyncio.sleep(0.5)
                decided = "SELECT count(*) FROM outcomes WHERE command = 'request'"
                assert await empty.pool.fetchval(decided) == 0
                async with empty.running("provisioning", **settings):
                    await empty.settled("entitlements", "provisioning")
            (given,) = await empty.pool.fetch("SELECT layer, amount FROM grants")
            assert (given["layer"], given["amount"]) == ("eager", 8_500_000)
            assert (await empty.ledger.balance("user:ada")).held == 6


async def _noticed(here: World) -> bool:
    return bool(await here.pool.fetchval("SELECT count(*) FROM recoveries"))


@asynccontextmanager
async def _restored(here: World, stack: Stack) -> AsyncIterator[World]:
    """Give the same installation with an empty database, as if a very old backup had come back."""
    url = await fresh_database(stack.database)
    pool = await make_pool(url, name="test", size=4)
    try:
        yield replace(here, database=url, pool=pool, store=await open_store(pool, here.store.rules))
    finally:
        pool.terminate()
        await drop_database(stack.database, url)
