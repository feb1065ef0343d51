from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import asyncpg
import pytest
from tests.helpers.acting import by
from tests.helpers.history import everything
from tests.helpers.ledger import Ledger
from tests.helpers.tampering import account_id

from faregate.ledger import acts
from faregate.ledger.core import parse_book
from faregate.ledger.core.prices_models import DEFAULT_TIERS
from faregate.ledger.erase import erase

pytestmark = pytest.mark.stack

VIEWS = {
    "user_credits",
    "user_credit_balance",
    "organizations",
    "organization_credits",
    "organization_members",
    "credit_transactions",
    "usage_tracking",
    "token_usage_ledger",
    "credit_deduction_ledger",
    "providers",
    "model_provider_pricing",
}


@pytest.fixture
async def reader(database_url: str) -> Any:
    connection = await asyncpg.connect(
        database_url, timeout=10, server_settings={"role": "faregate_reader"}
    )
    yield connection
    await connection.close()


async def test_a_reader_reads_every_view_and_no_table(
    ledger: Ledger, reader: asyncpg.Connection
) -> None:
    await everything(ledger)
    for name in sorted(VIEWS | {"system_settings", "prices_in_force"}):
        assert await reader.fetch(f"SELECT * FROM {name}"), name
    tables = await reader.fetch(
        "SELECT relname FROM pg_class WHERE relkind = 'r' "
        "AND relnamespace = 'public'::regnamespace AND has_any_column_privilege(oid, 'SELECT')"
    )
    assert [t["relname"] for t in tables] == ["system_settings"]
    for statement in ("SELECT * FROM entries", "UPDATE system_settings SET value = '1.0'"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await reader.execute(statement)


async def test_the_application_reads_them_too(ledger: Ledger) -> None:
    for name in VIEWS:
        await ledger.store.pool.fetch(f"SELECT * FROM {name} LIMIT 1")


async def test_every_view_says_what_it_is_and_none_shows_a_hash(
    owner: asyncpg.Connection,
) -> None:
    rows = await owner.fetch(
        "SELECT relname, obj_description(oid) AS said FROM pg_class "
        "WHERE relkind = 'v' AND relnamespace = 'public'::regnamespace"
    )
    assert {r["relname"] for r in rows} >= VIEWS
    assert [r["relname"] for r in rows if not r["said"]] == []
    shown = await owner.fetch(
        "SELECT table_name, column_name, data_type FROM information_schema.columns "
        "JOIN pg_views ON viewname = table_name WHERE table_schema = 'public' "
        "AND (data_type = 'bytea' OR column_name ~ 'key|hash|seal|cause|fingerprint|commitment')"
    )
    assert [dict(r) for r in shown] == []


async def test_a_users_credits_are_exact(ledger: Ledger, reader: asyncpg.Connection) -> None:
    await acts.set_tier(ledger.store, "user:hana", "starter", **by())
    await ledger.usage(
        user="hana", phase=None, units=None, model="gpt-4o-mini", input_tokens=7, output_tokens=0
    )
    await ledger.request("run", user="hana", items=3)
    row = await reader.fetchrow("SELECT * FROM user_credits WHERE user_id = 'user:hana'")
    assert row["credits_remaining"] == Decimal("16.9")
    assert (row["balance"], row["held"], row["debt"]) == (Decimal("19.9"), 3, 0)
    assert (row["credits_allocated"], row["tier"]) == (20, "starter")
    assert (row["next_reset"] - row["last_reset"]).days == 30
    balance = await reader.fetchrow("SELECT * FROM user_credit_balance")
    (allocation,) = json.loads(balance["active_allocations"])
    assert (balance["total_credits"], allocation["total_credits"]) == (Decimal("16.9"), 20)
    assert allocation["remaining_credits"] == 19.9


async def test_amounts_have_six_decimals_at_most_and_sum_up(
    ledger: Ledger, reader: asyncpg.Connection
) -> None:
    await everything(ledger)
    rows = await reader.fetch(
        "SELECT t.account, sum(t.amount) AS amount, sum(t.debt_delta) AS debt "
        "FROM credit_transactions t GROUP BY 1"
    )
    assert len(rows) > 5
    for row in rows:
        account = await ledger.balance(row["account"])
        assert (float(row["amount"]), float(row["debt"])) == (account.balance, account.debt)
    scales = await reader.fetchval("SELECT max(scale(amount)) FROM credit_transactions")
    assert scales <= 6


async def test_a_refund_names_the_charge_that_it_gave_back(
    ledger: Ledger, reader: asyncpg.Connection
) -> None:
    await ledger.set_balance("user:bea", 9)
    await ledger.usage("p1", user="bea", units=2, usage_id="u1")
    await acts.refund(ledger.store, usage_id="u1", **by())
    _, charged, refund = await reader.fetch("SELECT * FROM credit_transactions ORDER BY id")
    assert (refund["transaction_type"], refund["usage_id"]) == ("refund", "u1")
    assert refund["pipeline_id"] == "p1"
    assert (refund["charge_id"], charged["charge_id"]) == (charged["outcome_id"], None)


async def test_an_organization_its_members_and_what_is_left(
    ledger: Ledger, reader: asyncpg.Connection
) -> None:
    await everything(ledger)
    org = await reader.fetchrow("SELECT * FROM organizations WHERE org_id = 'org:corp'")
    assert (org["spending_policy"], org["members"]) == ("allocated", 1)
    credits_ = await reader.fetchrow("SELECT * FROM organization_credits WHERE org_id = 'org:corp'")
    assert (credits_["total_credits"], credits_["held"]) == (495, 40)
    assert (credits_["available_credits"], credits_["allocated_credits"]) == (455, 85)
    (member,) = await reader.fetch("SELECT * FROM organization_members WHERE org_id = 'org:corp'")
    assert (member["user_id"], member["role"]) == ("user:fay", "admin")
    shares = [member[n] for n in ("allocated", "used", "remaining", "held")]
    assert shares == [90, 5, 45, 40]


async def test_what_was_deducted_and_what_became_debt(
    ledger: Ledger, reader: asyncpg.Connection
) -> None:
    await ledger.grant("user:bea", 2)
    await ledger.usage(user="bea", units=5, usage_id="u-1")
    row = await reader.fetchrow("SELECT * FROM credit_deduction_ledger")
    assert (row["payer"], row["user_id"], row["usage_id"]) == ("user:bea", "user:bea", "u-1")
    parts = [row[n] for n in ("credits_deducted", "from_balance", "as_debt", "balance_after")]
    assert parts == [5, 2, 3, 0]


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        (None, "gpt-4o-mini"),
        ("openai", "gpt-4o-mini"),
        (None, "openai/gpt-4o-mini"),
        ("openai", "openai/gpt-4o-mini"),
        ("azure", "openai/gpt-4o-mini"),
        (None, "openai/plain"),
        ("openai", "plain"),
        (None, "plain"),
        (None, "twice"),
        ("a", "twice"),
        ("a", "b/twice"),
        ("router", "openai/gpt-4o-mini"),
        (None, "router/openai/gpt-4"),
        (None, "router/a/twice"),
        (None, "unknown"),
    ],
)
async def test_a_model_is_found_in_the_book_as_the_engine_finds_it(
    owner: asyncpg.Connection, provider: str | None, model: str
) -> None:
    usd = {"kind": "vendor", "input_usd_per_1k": 0.00015, "output_usd_per_1k": 0.0006}
    names = ("openai/gpt-4o-mini", "plain", "a/twice", "b/twice", "router/openai/gpt-4")
    models = dict.fromkeys(names, usd)
    book = parse_book(1, datetime.now(UTC), {"models": models})
    expected = book.model(provider, model)
    found = await owner.fetchval(
        "SELECT name FROM listed_model($1, $2, $3)", json.dumps(models), provider, model
    )
    assert found == (expected.name if expected else None)


async def test_tokens_have_the_providers_own_cost(
    ledger: Ledger, reader: asyncpg.Connection
) -> None:
    await ledger.usage(
        user="hana",
        phase=None,
        units=None,
        model="gpt-4o-mini",
        input_tokens=1234,
        output_tokens=77,
        usage_id="u-9",
    )
    row = await reader.fetchrow("SELECT * FROM token_usage_ledger")
    assert (row["provider"], row["model"], row["total_tokens"]) == ("openai", "gpt-4o-mini", 1311)
    assert row["vendor_cost_usd"] == Decimal("0.0002313")
    assert (row["credits_charged"], row["usage_id"], row["price_version"]) == (
        Decimal("0.1"),
        "u-9",
        1,
    )


async def test_calls_are_tracked_by_user_and_period(
    ledger: Ledger, reader: asyncpg.Connection, owner: asyncpg.Connection
) -> None:
    await acts.set_tier(ledger.store, "user:hana", "starter", **by())
    for _ in range(3):
        await ledger.usage(
            user="hana",
            phase=None,
            units=None,
            model="gpt-4o-mini",
            input_tokens=7,
            output_tokens=0,
        )
    row = await reader.fetchrow("SELECT * FROM usage_tracking")
    used = [row[n] for n in ("user_id", "api_calls_used", "api_calls_limit", "remaining")]
    assert used == ["user:hana", 3, 2000, 1997]
    assert row["credits_used"] == Decimal("0.3")
    assert (row["period_end"] - row["period_start"]).days == 30
    month = 30 * 86_400 * 10**6
    await owner.execute(
        "UPDATE accounts SET plan = jsonb_set(plan, '{period_start}', "
        "to_jsonb((plan ->> 'period_start')::bigint - $1)) WHERE plan ? 'period_start'",
        2 * month + 1,
    )
    rows = await reader.fetch("SELECT api_calls_used, period_start FROM usage_tracking")
    assert sorted(r["api_calls_used"] for r in rows) == [3], "those calls are in the running one"
    await acts.set_quota(ledger.store, "user:hana", 5, **by())
    assert await reader.fetchval("SELECT api_calls_limit FROM usage_tracking") == 5


@pytest.mark.parametrize("tier", sorted(DEFAULT_TIERS))
async def test_the_quota_of_a_tier_is_the_books_default(
    ledger: Ledger, reader: asyncpg.Connection, owner: asyncpg.Connection, tier: str
) -> None:
    await ledger.grant("user:hana", 1)
    plan = {"tier": tier, "period_start": int(datetime.now(UTC).timestamp() * 10**6)}
    await owner.execute("UPDATE accounts SET plan = $1", json.dumps(plan))
    limit = await reader.fetchval("SELECT api_calls_limit FROM usage_tracking")
    assert limit == DEFAULT_TIERS[tier].calls


async def test_providers_and_prices_are_those_in_force(
    reader: asyncpg.Connection, owner: asyncpg.Connection
) -> None:
    rows = await reader.fetch("SELECT provider, active, models FROM providers ORDER BY 1")
    assert [tuple(r) for r in rows] == [("anthropic", True, 1), ("openai", True, 4)]
    book = {
        "increment": 0.01,
        "vendor": {"margin": 2},
        "providers": {"openai": {"active": False}},
        "models": {
            "openai/new": {"kind": "vendor", "input_usd_per_1k": 1e-5, "output_usd_per_1k": 0.5},
            "house": {"kind": "credits_per_1k", "credits": 7},
        },
    }
    await owner.execute(
        "INSERT INTO price_versions VALUES (2, now(), now(), 'root', $1)", json.dumps(book)
    )
    assert [tuple(r) for r in await reader.fetch("SELECT * FROM providers")] == [
        ("openai", False, 1, 2)
    ]
    new, house = await reader.fetch("SELECT * FROM model_provider_pricing ORDER BY model DESC")
    assert (new["provider"], new["model"], new["pricing"]) == ("openai", "new", "vendor")
    assert [new[n] for n in ("input_usd_per_1k", "margin", "credit_minimum_increment")] == [
        Decimal("0.00001"),
        2,
        Decimal("0.01"),
    ]
    assert (house["provider"], house["credits_per_1k"], house["margin"]) == (None, 7, None)


async def test_an_erased_account_is_listed_by_its_number(
    ledger: Ledger, reader: asyncpg.Connection, owner: asyncpg.Connection
) -> None:
    await ledger.grant("user:42", 5)
    await ledger.grant("org:corp", 6)
    numbers = [await account_id(owner, s) for s in ("user:42", "org:corp")]
    for subject in ("user:42", "org:corp"):
        await erase(owner, ledger.store.keys, subject, by="root", force=True)
    (user,) = await reader.fetch("SELECT user_id, credits_remaining FROM user_credits")
    assert tuple(user) == (f"erased:{numbers[0]}", 5)
    (org,) = await reader.fetch("SELECT org_id, total_credits FROM organization_credits")
    assert tuple(org) == (f"erased:{numbers[1]}", 6)
    accounts = await reader.fetch("SELECT account FROM credit_transactions ORDER BY id")
    assert [a["account"] for a in accounts] == [f"erased:{n}" for n in numbers]
