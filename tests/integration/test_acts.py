"""What finance and operations do, as plain functions: once per key, audited, readable afterwards."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from tests.helpers.acting import by, refused, sound
from tests.helpers.ledger import Ledger

from faregate.ledger import acts, reading
from faregate.ledger.acts import Call, Done
from faregate.ledger.core import Rules, Welcome
from faregate.ledger.database import Unavailable
from faregate.ledger.reading_audit import audit
from faregate.ledger.store import Store, open_store
from faregate.ledger.verify import verify
from faregate.testing.clocks import Clock

pytestmark = pytest.mark.stack

CREDIT = 1_000_000
ORG, ADA = "org:acme", "user:ada"
_WRITTEN = """SELECT (SELECT count(*) FROM outcomes), (SELECT count(*) FROM entries),
    (SELECT count(*) FROM subjects), (SELECT count(*) FROM outbox), (SELECT max(id) FROM audit)"""


async def test_a_grant_says_who_gave_it_until_when_and_why(store: Store) -> None:
    until = datetime.now(UTC) + timedelta(days=90)
    done = await acts.grant(
        store, ADA, "bonus", 5 * CREDIT, **by(), priority=10, expires_at=until,
        allocated_by="grace", notes="welcome back", source="campaign:spring",
    )  # fmt: skip
    (grant,) = await reading.grants(store, ADA)
    assert (done.result, done.body["grant"]) == ("granted", grant["number"])
    assert (grant["kind"], grant["amount"], grant["remaining"]) == ("bonus", 5, 5)
    assert (grant["priority"], grant["expires_at"]) == (10, until.isoformat())
    assert (grant["allocated_by"], grant["notes"]) == ("grace", "welcome back")
    assert (grant["source"], grant["state"]) == ("campaign:spring", "live")
    assert isinstance(grant["id"], int)


async def test_a_grant_can_expire_so_many_days_from_now_and_be_repeated(store: Store) -> None:
    who = by(key="k1")
    first = await acts.grant(store, ADA, "purchase", CREDIT, **who, expires_in=timedelta(days=7))
    again = await acts.grant(store, ADA, "purchase", CREDIT, **who, expires_in=timedelta(days=7))
    assert (first.repeated, again.repeated) == (False, True)
    assert (first.outcome_id, first.body) == (again.outcome_id, again.body)
    (grant,) = await reading.grants(store, ADA)
    days = datetime.fromisoformat(grant["expires_at"]) - datetime.fromisoformat(grant["at"])
    assert abs(days - timedelta(days=7)) < timedelta(seconds=5)


async def test_the_same_key_with_other_content_is_a_conflict(store: Store) -> None:
    await acts.set_balance(store, ORG, 10 * CREDIT, **by(key="k"))
    assert await refused(acts.set_balance(store, ORG, 11 * CREDIT, **by(key="k"))) == (
        "idempotency_conflict"
    )
    assert await refused(acts.set_quota(store, ADA, 5, **by(key="k"))) == "idempotency_conflict"
    other = await acts.set_balance(store, ORG, 11 * CREDIT, **by(key="k"), via="faregate/http")
    assert not other.repeated, "keys are unique within the program that sends them"


_UNREADABLE = ["user:a\nb", "user:x\u202ey", "user: a ", f"user:{'a' * 257}", "org:\ud800"]


@pytest.mark.parametrize("subject", ["acme", "member:1/2", "org:", "erased:7", *_UNREADABLE])
async def test_an_act_on_what_is_no_account_is_refused(store: Store, subject: str) -> None:
    assert await refused(acts.set_balance(store, subject, CREDIT, **by())) == "unknown_subject"
    assert await store.pool.fetchval("SELECT count(*) FROM subjects") == 0


@pytest.mark.parametrize("amount", [0, -1, 10**15])
async def test_an_amount_out_of_range_is_refused(store: Store, amount: int) -> None:
    assert await refused(acts.grant(store, ADA, "bonus", amount, **by())) == "amount_out_of_range"


@pytest.mark.parametrize("text", ["a sentence", "ada@example.com", "", "x" * 201])
async def test_what_stays_for_ever_must_be_a_code(store: Store, text: str) -> None:
    granted = acts.grant(store, ADA, "bonus", CREDIT, **by(), source=text)
    assert await refused(granted) == "invalid_code"


async def test_every_act_is_in_the_audit_log_with_who_and_what_and_refused_ones_too(
    store: Store,
) -> None:
    await acts.set_balance(store, ORG, 100 * CREDIT, **by("grace"))
    await acts.set_policy(store, ORG, "allocated", **by("grace"))
    await acts.set_member(store, ORG, ADA, "admin", **by("grace"))
    await acts.allocate(store, ORG, ADA, 30 * CREDIT, **by("linus"))
    await acts.reclaim(store, ORG, ADA, 5 * CREDIT, **by("linus"))
    await acts.set_tier(store, ADA, "starter", **by("linus"))
    await acts.set_quota(store, ADA, 5, **by("linus"))
    await acts.set_alerts(store, ORG, low=10 * CREDIT, percent=20, **by("linus"))
    assert await refused(acts.set_tier(store, ADA, "gold", **by("mallory"))) == "unknown_tier"

    log = await audit(store)
    assert [(a["actor"], a["action"], a["result"], a["account"]) for a in reversed(log)] == [
        ("grace", "set_balance", "set", ORG),
        ("grace", "set_policy", "set", ORG),
        ("grace", "set_member", "set", ORG),
        ("linus", "allocate", "allocated", ORG),
        ("linus", "allocate", "allocated", ORG),
        ("linus", "set_tier", "changed", ADA),
        ("linus", "set_quota", "set", ADA),
        ("linus", "set_alerts", "set", ORG),
        ("mallory", "set_tier", "refused: unknown_tier", ADA),
    ]
    assert log[-1]["metadata"] == {"target": 100}
    assert log[-4]["metadata"] == {"amount": 30, "user_id": "ada"}
    assert log[1]["metadata"] == {"low": 10, "percent": 20}
    assert [a["action"] for a in await audit(store, ADA, limit=2)] == ["set_tier", "set_quota"]
    await sound(store)


async def test_an_act_that_is_repeated_is_logged_once(store: Store) -> None:
    for _ in range(3):
        await acts.set_quota(store, ADA, 5, **by(key="same"))
    assert len(await audit(store)) == 1


async def test_an_act_leaves_nothing_when_its_transaction_fails(
    store: Store, database_url: str
) -> None:
    """The audit row and the entry are one transaction: without the log nothing is granted."""
    owner = await asyncpg.connect(database_url)
    await owner.execute("REVOKE INSERT ON audit FROM faregate_app")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await acts.grant(store, ADA, "purchase", CREDIT, **by())
    await owner.execute("GRANT INSERT ON audit TO faregate_app")
    await owner.close()
    assert (await reading.account(store, ADA))["balance"] == 0
    assert await audit(store) == []


async def test_a_database_that_is_away_is_said_with_the_key_to_repeat(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: Any, **__: Any) -> None:
        raise Unavailable("it is away")

    monkeypatch.setattr(Store, "apply", away)
    with pytest.raises(Unavailable, match="same idempotency key, once-more"):
        await acts.grant(store, ADA, "purchase", CREDIT, **by(key="once-more"))


async def test_a_deduction_takes_the_whole_or_nothing(store: Store) -> None:
    await acts.set_balance(store, ADA, 10 * CREDIT, **by())
    done = await acts.deduct(store, ADA, amount=4 * CREDIT, key="d1", reference="essay-1")
    assert (done.result, done.cost, done.payer) == ("charged", 4 * CREDIT, ADA)
    assert done.balance == 6 * CREDIT
    (entry, *_) = await reading.history(store, ADA, 1)
    assert (entry["id"], entry["amount"], entry["usage_id"]) == (done.entry_id, -4, "essay-1")

    again = await acts.deduct(store, ADA, amount=4 * CREDIT, key="d1", reference="essay-1")
    assert (again.repeated, again.entry_id, again.balance) == (True, done.entry_id, 6 * CREDIT)

    short = await acts.deduct(store, ADA, amount=7 * CREDIT, key="d2")
    assert (short.result, short.reason, short.cost) == ("refused", "insufficient_credits", 0)
    assert (short.body["status"], short.body["required"]) == (402, 7 * CREDIT)
    assert (await reading.account(store, ADA))["balance"] == 6
    assert await audit(store, ADA, limit=5), "setting the balance"
    assert len(await audit(store)) == 1, "deductions are no administrative acts"
    await sound(store)


async def test_a_deduction_of_a_call_is_priced_and_says_so(store: Store) -> None:
    await acts.set_balance(store, ORG, 10 * CREDIT, **by())
    call = Call("gpt-4o-mini", 100, 100)
    done = await acts.deduct(store, ADA, ORG, call=call, key="c1")
    assert (done.cost, done.payer, done.balance) == (100_000, ORG, 9_900_000)
    (entry, *_) = await reading.history(store, ORG, 1)
    assert (entry["model"], entry["input_tokens"], entry["price_version"]) == (
        "gpt-4o-mini", 100, 1)  # fmt: skip
    own_key = Call("gpt-4o-mini", 100, 100, byok=True)
    free = await acts.deduct(store, ADA, ORG, call=own_key, key="c2", counts=True)
    assert (free.result, free.cost, free.balance) == ("charged", 0, 9_900_000)
    assert (await reading.quota(store, ADA))["used"] == 1
    unknown = acts.deduct(store, ADA, ORG, call=Call("gpt-99", 1), key="c3")
    assert await refused(unknown) == "unknown_price"


async def test_checking_says_what_deducting_would_and_writes_nothing(store: Store) -> None:
    await acts.set_balance(store, ORG, 10 * CREDIT, **by())
    await acts.set_balance(store, ADA, 3 * CREDIT, **by())
    before = await store.pool.fetchrow(_WRITTEN)

    pool = await acts.check(store, ADA, ORG, 10 * CREDIT)
    assert (pool.sufficient, pool.payer) == (True, ORG)
    assert (await acts.check(store, ADA, None, 3 * CREDIT)).payer == ADA
    short = await acts.check(store, ADA, ORG, 11 * CREDIT)
    assert (short.sufficient, short.reason) == (False, "insufficient_credits")
    assert short.body["available"] == 10 * CREDIT
    assert not (await acts.check(store, "user:nobody", None, 1)).sufficient
    assert await store.pool.fetchrow(_WRITTEN) == before
    assert await store.names.find("user:nobody") is None


async def test_checking_in_an_allocated_org_looks_at_the_allocation(store: Store) -> None:
    await acts.set_balance(store, ORG, 10 * CREDIT, **by())
    await acts.set_balance(store, ADA, 99 * CREDIT, **by())
    await acts.set_policy(store, ORG, "allocated", **by())
    assert (await acts.check(store, ADA, ORG, 1)).reason == "no_allocation"
    await acts.allocate(store, ORG, ADA, 4 * CREDIT, **by())
    assert (await acts.check(store, ADA, ORG, 4 * CREDIT)).sufficient
    assert (await acts.check(store, ADA, ORG, 5 * CREDIT)).reason == "allocation_exhausted"


async def test_a_check_sees_a_grant_that_expired_a_moment_ago_as_gone(
    clocked: tuple[Store, Clock],
) -> None:
    store, clock = clocked
    await acts.grant(store, ADA, "purchase", CREDIT, **by(), expires_in=timedelta(hours=1))
    assert (await acts.check(store, ADA, None, CREDIT)).sufficient
    await clock.advance(hours=1, settle=False)
    assert not (await acts.check(store, ADA, None, CREDIT)).sufficient


async def test_reading_an_account_expires_what_is_due_as_an_entry(
    clocked: tuple[Store, Clock],
) -> None:
    store, clock = clocked
    await acts.grant(store, ADA, "purchase", CREDIT, **by(), expires_in=timedelta(hours=1))
    await acts.grant(store, ADA, "purchase", 2 * CREDIT, **by())
    assert (await reading.account(store, ADA))["balance"] == 3
    await clock.advance(hours=1, settle=False)
    found = await reading.account(store, ADA)
    entries = await reading.history(store, ADA, 10)
    assert (found["balance"], found["available"], entries[0]["kind"]) == (2, 2, "expiry")
    assert sum(e["amount"] for e in entries) == found["balance"]
    states = [(g["number"], g["state"]) for g in await reading.grants(store, ADA)]
    assert states == [(1, "expired"), (2, "live")]
    await sound(store)


async def test_grants_burn_by_priority_then_expiry_then_age(store: Store) -> None:
    day = timedelta(days=1)
    for amount, priority, expires in [
        (1, 100, None), (2, 100, 30 * day), (3, 100, 5 * day), (4, 10, None), (5, 100, None),
    ]:  # fmt: skip
        await acts.grant(store, ADA, "purchase", amount * CREDIT, **by(), priority=priority,
                         expires_in=expires)  # fmt: skip
    found = reading.burn_order(await reading.grants(store, ADA))
    assert [g["amount"] for g in found] == [4, 3, 2, 1, 5]
    await acts.deduct(store, ADA, amount=8 * CREDIT, key="burn")
    (entry, *_) = await reading.history(store, ADA, 1)
    assert entry["grants"] == [
        {"number": 4, "amount": -4}, {"number": 3, "amount": -3}, {"number": 2, "amount": -1},
    ]  # fmt: skip


async def test_an_account_and_its_grants_can_be_read_as_they_were(store: Store) -> None:
    times = []
    for amount in (10, 25, 7):
        await acts.grant(store, ADA, "purchase", amount * CREDIT, **by())
        times.append(await store.pool.fetchval("SELECT clock_timestamp()"))
    await acts.deduct(store, ADA, amount=30 * CREDIT, key="d")
    balances = [(await reading.account(store, ADA, at))["balance"] for at in times]
    assert balances == [10, 35, 42]
    assert (await reading.account(store, ADA))["balance"] == 12
    assert (await reading.account(store, ADA, times[0] - timedelta(days=1)))["balance"] == 0
    then = await reading.grants(store, ADA, times[1])
    assert [(g["amount"], g["remaining"]) for g in then] == [(10, 10), (25, 25)]
    now = await reading.grants(store, ADA)
    assert [(g["remaining"], g["state"]) for g in now] == [(0, "spent"), (5, "live"), (7, "live")]


async def test_any_entrys_time_gives_its_balance(store: Store) -> None:
    """The search by halving finds each of them, the first and the last included."""
    ledger = Ledger(store)
    await ledger.set_balance(ADA, 1000)
    await ledger.apply(*(ledger.make.usage(user="ada") for _ in range(7)))
    for n in range(30):
        await ledger.usage(user="ada", units=n + 1)
    for row in await store.pool.fetch("SELECT DISTINCT ON (at) at, balance FROM entries"
                                      " ORDER BY at, sequence DESC"):  # fmt: skip
        found = await reading.account(store, ADA, row["at"])
        assert found["balance"] == row["balance"] / CREDIT


async def test_a_higher_tier_begins_now_and_a_lower_one_with_the_next_period(store: Store) -> None:
    assert (await acts.set_tier(store, ADA, "starter", **by())).result == "changed"
    found = await reading.account(store, ADA)
    assert (found["tier"], found["balance"], found["calls_limit"]) == ("starter", 20, 2000)
    start, end = (datetime.fromisoformat(found[n]) for n in ("period_start", "period_end"))
    assert end - start == timedelta(days=30)
    await acts.deduct(store, ADA, amount=5 * CREDIT, key="d")
    assert (await acts.set_tier(store, ADA, "professional", **by())).result == "changed"
    assert (await reading.account(store, ADA))["balance"] == 60
    assert (await acts.set_tier(store, ADA, "starter", **by())).result == "scheduled"
    found = await reading.account(store, ADA)
    assert (found["tier"], found["next_tier"], found["balance"]) == ("professional", "starter", 60)
    assert (await acts.set_tier(store, ADA, "starter", **by(), now=True)).result == "changed"
    assert (await reading.account(store, ADA))["balance"] == 20
    assert (await acts.set_tier(store, ADA, "enterprise", **by())).result == "changed"
    found = await reading.account(store, ADA)
    assert (found["balance"], found["calls_limit"]) == (999_999.99, None)
    await sound(store)


async def test_a_milestone_releases_its_part_once(pool: asyncpg.Pool) -> None:
    rules = Rules(provisioning="auto", welcome=Welcome(milestones=(("first_essay", 4 * CREDIT),)))
    store = await open_store(pool, rules)
    assert await refused(acts.unlock(store, ADA, "first_essay", **by())) == "not_provisioned"
    await acts.deduct(store, ADA, amount=CREDIT, key="d")
    assert (await reading.account(store, ADA))["balance"] == 0
    done: Done = await acts.unlock(store, ADA, "first_essay", **by())
    assert (done.result, done.body["amount"]) == ("unlocked", 4 * CREDIT)
    assert (await acts.unlock(store, ADA, "first_essay", **by())).result == "unchanged"
    assert (await reading.account(store, ADA))["balance"] == 4
    assert await refused(acts.unlock(store, ADA, "other", **by())) == "unknown_milestone"


async def test_a_grant_is_revoked_once_and_everything_still_adds_up(store: Store) -> None:
    await acts.grant(store, ADA, "purchase", 10 * CREDIT, **by(), priority=1)
    await acts.grant(store, ADA, "bonus", 20 * CREDIT, **by())
    first = await acts.revoke(store, ADA, 2, **by("grace", key="r1"))
    again = await acts.revoke(store, ADA, 2, **by("grace", key="r1"))
    assert (first.result, first.body["amount"], first.repeated) == ("revoked", 20 * CREDIT, False)
    assert (again.outcome_id, again.repeated) == (first.outcome_id, True)
    assert (await reading.account(store, ADA))["balance"] == 10
    (entry, *_) = await reading.history(store, ADA, 1)
    assert (entry["kind"], entry["amount"], entry["reason"]) == ("adjustment", -20, "revoked")
    assert await refused(acts.revoke(store, ADA, 2, **by())) == "nothing_to_revoke"
    assert await refused(acts.revoke(store, "user:nobody", 1, **by())) == "nothing_to_revoke"
    assert await refused(acts.revoke(store, ADA, 1, **by(), reason="a sentence")) == "invalid_code"
    assert await store.names.find("user:nobody") is None
    (act, *_) = [a for a in await audit(store) if a["result"] == "revoked"]
    assert (act["actor"], act["action"], act["account"]) == ("grace", "revoke", ADA)
    assert act["metadata"] == {"grant": 2}
    assert (await verify(store.pool)).findings == []
