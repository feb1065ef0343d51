from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
from tests.helpers.ledger import Ledger
from tests.helpers.servers import drop_database, fresh_database

from faregate.ledger.core import SetBalance
from faregate.ledger.database import SERVER_LIMITS, make_pool
from faregate.ledger.migrate import migrate, pending
from faregate.ledger.store import BadValue
from faregate.ledger.verify import check_triggers, verify

pytestmark = pytest.mark.stack

CHANGES = {
    "UPDATE": "UPDATE {} SET {} = {}",
    "an UPDATE of no row": "UPDATE {} SET {} = {} WHERE false",
    "DELETE": "DELETE FROM {}",
    "TRUNCATE": "TRUNCATE {}",
    "TRUNCATE CASCADE": "TRUNCATE {} CASCADE",
}
TABLES = {
    "entries": "amount",
    "outcomes": "result",
    "price_versions": "book",
    "grants": "amount",
    "audit": "action",
}
ERASABLE = [("grants", "allocated_by"), ("grants", "notes"), ("audit", "actor")]

each_change = pytest.mark.parametrize("change", CHANGES)
each_table = pytest.mark.parametrize("table", TABLES)


@pytest.fixture
async def owner(ledger: Ledger, database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """The owner of a ledger that has an entry; here it is a superuser as well."""
    await ledger.act(lambda i: SetBalance(i, "org:acme", 10_000_000), actor="ops@example.com")
    connection = await asyncpg.connect(database_url, timeout=10)
    yield connection
    await connection.close()


def statement(change: str, table: str) -> str:
    return CHANGES[change].format(table, TABLES[table], TABLES[table])


@each_table
@each_change
async def test_the_application_has_no_right_to_change_it(
    ledger: Ledger, change: str, table: str
) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="permission denied"):
        await ledger.store.pool.execute(statement(change, table))


@each_table
@each_change
@pytest.mark.parametrize("role", ["origin", "replica", "local"])
async def test_the_owner_is_refused_as_well_whatever_the_replication_role(
    owner: asyncpg.Connection, change: str, table: str, role: str
) -> None:
    await owner.execute(f"SET session_replication_role = {role}")
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
        await owner.execute(statement(change, table))
    assert await owner.fetchval(f"SELECT count(*) FROM {table}") == 1


@each_table
async def test_no_upsert_and_no_merge_changes_it(owner: asyncpg.Connection, table: str) -> None:
    column = TABLES[table]
    key = "version" if table == "price_versions" else "id"
    merge = f"MERGE INTO {table} t USING {table} s ON t.{key} = s.{key} WHEN MATCHED THEN"
    upsert = f"INSERT INTO {table} SELECT * FROM {table} ON CONFLICT ({key}) DO UPDATE"
    for sql in (
        f"{upsert} SET {column} = {table}.{column}",
        f"{merge} UPDATE SET {column} = s.{column}",
        f"{merge} DELETE",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
            await owner.execute(sql)


@pytest.mark.parametrize(("table", "column"), ERASABLE)
async def test_who_did_it_can_be_erased_by_the_owner_and_nothing_beside_it(
    owner: asyncpg.Connection, table: str, column: str
) -> None:
    await owner.execute(f"UPDATE {table} SET {column} = NULL")
    assert await owner.fetchval(f"SELECT {column} IS NULL FROM {table}")
    for other in await columns(owner, table):
        if (table, other) not in ERASABLE:
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
                await owner.execute(f"UPDATE {table} SET {column} = NULL, {other} = {other}")


@pytest.mark.parametrize(("table", "column"), ERASABLE)
async def test_the_application_cannot_erase_who_did_it(
    ledger: Ledger, table: str, column: str
) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="permission denied"):
        await ledger.store.pool.execute(f"UPDATE {table} SET {column} = NULL")


@each_table
async def test_no_column_can_be_changed_but_those_that_can_be_erased(
    owner: asyncpg.Connection, table: str
) -> None:
    for column in await columns(owner, table):
        if (table, column) in ERASABLE:
            continue
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
            await owner.execute(f"UPDATE {table} SET {column} = {column}")


async def columns(connection: asyncpg.Connection, table: str) -> list[str]:
    rows = await connection.fetch(
        "SELECT attname FROM pg_attribute WHERE attrelid = $1::text::regclass AND attnum > 0",
        table,
    )
    return [row["attname"] for row in rows]


async def test_the_triggers_are_found_in_place(owner: asyncpg.Connection) -> None:
    assert await check_triggers(owner) == []


async def test_the_application_cannot_drop_what_guards_the_ledger(ledger: Ledger) -> None:
    for sql in (
        "DROP TRIGGER append_only ON entries",
        "ALTER TABLE entries DISABLE TRIGGER append_only",
        "SET session_replication_role = replica",
        "DROP TABLE entries",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await ledger.store.pool.execute(sql)


# --- limits -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("setting", "value"), SERVER_LIMITS.items())
async def test_the_limits_are_in_force_in_every_session(
    pool: asyncpg.Pool, setting: str, value: str
) -> None:
    assert await pool.fetchval(f"SHOW {setting}") == value


async def test_the_role_has_the_limits_too(pool: asyncpg.Pool) -> None:
    settings = await pool.fetchval("SELECT rolconfig FROM pg_roles WHERE rolname = 'faregate_app'")
    assert set(settings) >= {f"{name}={value}" for name, value in SERVER_LIMITS.items()}


async def test_verify_takes_longer_than_a_decision_may_and_leaves_the_limits_as_they_were(
    database_url: str,
) -> None:
    pool = await make_pool(database_url, name="test", size=1)
    assert (await verify(pool)).ok
    for setting, value in SERVER_LIMITS.items():
        assert await pool.fetchval(f"SHOW {setting}") == value
    await pool.close()


async def test_a_session_that_sleeps_in_a_transaction_is_ended(database_url: str) -> None:
    connection = await asyncpg.connect(database_url, timeout=10)
    await connection.execute("SET idle_in_transaction_session_timeout = '50ms'")
    await connection.execute("BEGIN")
    async with asyncio.timeout(10):
        while not connection.is_closed():
            await asyncio.sleep(0.01)


# --- values that PostgreSQL cannot keep ---------------------------------------------------------


@pytest.mark.parametrize("text", ["nul\0", "\ud800"])
async def test_a_text_that_cannot_be_stored_is_a_bad_value(ledger: Ledger, text: str) -> None:
    with pytest.raises(BadValue):
        await ledger.grant("org:acme", 1, reason=text)
    assert (await ledger.balance("org:acme")).balance == 0


async def test_a_number_beyond_64_bits_is_a_bad_value(ledger: Ledger) -> None:
    with pytest.raises(BadValue):
        await ledger.usage(phase="nlp", units=2**63)
    await ledger.grant("org:acme", 1)
    assert (await verify(ledger.store.pool)).ok


async def test_nothing_of_a_batch_with_a_bad_value_is_kept(ledger: Ledger) -> None:
    make = ledger.make
    with pytest.raises(BadValue):
        await ledger.apply(make.grant("org:acme", 1), make.grant("org:acme", 1, reason="\0"))
    assert (await ledger.balance("org:acme")).sequence == 0


# --- migrations ---------------------------------------------------------------------------------


async def test_migrations_are_applied_once(database_url: str) -> None:
    assert await pending(database_url) == []
    assert await migrate(database_url) == []


async def test_each_test_has_a_database_of_its_own(database_url: str) -> None:
    other = await fresh_database(database_url)
    try:
        assert other != database_url
        assert await pending(other) == []
    finally:
        await drop_database(database_url, other)
