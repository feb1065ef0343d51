"""Whatever is changed, in whichever row: verify finds something. Erasable columns are left out."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.helpers.ledger import Ledger
from tests.helpers.tampering import cover_up, tampering

from faregate.ledger.verify import verify

pytestmark = pytest.mark.stack


any_time = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

LATER = "interval '1 microsecond'"
CHANGES: dict[str, dict[str, str]] = {
    "grants": {
        **{c: f"{c} + 8000000000" for c in ("id", "account_id", "number")},
        **{c: f"{c} + 1" for c in ("amount", "priority")},
        "at": f"at + {LATER}",
        "expires_at": f"coalesce(expires_at, at) + {LATER}",
        "kind": "kind || 'x'",
    },
    "members": {c: f"{c} + 8000000000" for c in ("org_id", "user_id", "account_id")},
    "audit": {
        **{c: f"coalesce({c}, 0) + 8000000000" for c in ("id", "account_id", "outcome_id")},
        **{c: f"{c} || 'x'" for c in ("action", "result", "actor")},
        "at": f"at + {LATER}",
        "actor_key": "gen_random_uuid()",
        "metadata": """metadata || '{"more": 1}'""",
        "hash": "sha256(hash)",
    },
    "accounts": {
        **{c: f"{c} + 1" for c in ("balance", "held", "debt", "sequence", "granted")},
        "id": "id + 8000000000",
        "chain_head": "sha256(chain_head)",
        "last_at": f"last_at + {LATER}",
        "grants": "grants || '[[900, 1, 0, 100, null]]'",
        "checkpointed": "sequence + 1",
    },
    "system_settings": {"key": "key || 'x'", "value": "value || '1'"},
}
TOLD_NOWHERE_ELSE = {
    "grants": {"source", "allocated_by", "notes", "layer", "arm"},
    "members": {"created_at"},
    "accounts": {"plan", "due_at"},  # changed one part after the other in test_verify_grants
    "audit": set[str](),
    "system_settings": {"updated_by", "updated_at"},
}
PLACES = [(table, column) for table, changes in CHANGES.items() for column in changes]


@pytest.mark.parametrize("table", CHANGES)
async def test_the_changes_cover_every_column(ledger: Ledger, table: str) -> None:
    rows = await ledger.store.pool.fetch(
        "SELECT attname FROM pg_attribute WHERE attrelid = $1::text::regclass AND attnum > 0",
        table,
    )
    assert {r["attname"] for r in rows} == {*CHANGES[table]} | TOLD_NOWHERE_ELSE[table]


@pytest.mark.timeout(300)
@any_time
@given(place=st.sampled_from(PLACES), n=st.integers(0, 10**6))
async def test_any_column_of_any_row_is_protected(
    lived: Ledger, database_url: str, place: tuple[str, str], n: int
) -> None:
    table, column = place
    async with tampering(database_url) as connection:
        await _loosen(connection)
        where = await _row(connection, table, n)
        await connection.execute(f"UPDATE {table} SET {column} = {CHANGES[table][column]} {where}")
        await cover_up(connection)
        report = await verify(connection)
    assert not report.ok


@pytest.mark.timeout(300)
@any_time
@given(
    table=st.sampled_from(["grants", "members", "audit", "accounts", "pipelines"]),
    n=st.integers(0, 10**6),
)
async def test_any_deleted_row_is_noticed_unless_it_says_nothing(
    lived: Ledger, database_url: str, table: str, n: int
) -> None:
    async with tampering(database_url) as connection:
        where = await _row(connection, table, n)
        newest = table == "audit" and await _is_newest(connection, where)
        done = table == "pipelines" and await connection.fetchval(
            f"SELECT state NOT IN ('live', 'closing') FROM pipelines {where}"
        )
        await connection.execute(f"DELETE FROM {table} {where}")
        await cover_up(connection)
        report = await verify(connection)
    assert report.ok == (newest or done)


@pytest.mark.timeout(300)
@any_time
@given(
    part=st.sampled_from(["pins", "member_pins"]),
    value=st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-9, 10**8)
        | st.floats(-9, 9)
        | st.text("a1", max_size=2),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.just("a"), inner),
        max_leaves=6,
    ),
    n=st.integers(0, 10**6),
)
async def test_any_other_pins_are_noticed_and_none_stops_verify(
    lived: Ledger, database_url: str, part: str, value: Any, n: int
) -> None:
    async with tampering(database_url) as connection:
        where = await _row(connection, "pipelines", n)
        await connection.execute("CREATE TEMP TABLE value (value jsonb)")
        await connection.execute("INSERT INTO value VALUES ($1)", json.dumps(value))
        changed = await connection.fetchval(
            f"UPDATE pipelines SET {part} = value FROM value {where} "
            f"AND {part} IS DISTINCT FROM value RETURNING true"
        )
        await cover_up(connection)
        report = await verify(connection)
    assert report.ok != bool(changed)


async def _loosen(connection: Any) -> None:
    """What PostgreSQL itself would refuse, somebody with all rights could switch off."""
    rows = await connection.fetch(
        "SELECT conrelid::regclass AS relation, conname FROM pg_constraint "
        "WHERE contype = 'c' AND conrelid = 'accounts'::regclass"
    )
    for row in rows:
        await connection.execute(f"ALTER TABLE accounts DROP CONSTRAINT IF EXISTS {row['conname']}")


async def _row(connection: Any, table: str, n: int) -> str:
    """Give the condition that finds one row of a table."""
    rows = await connection.fetch(f"SELECT ctid::text FROM {table} ORDER BY 1")
    return f"WHERE {table}.ctid = '{rows[n % len(rows)]['ctid']}'"


async def _is_newest(connection: Any, where: str) -> bool:
    newest = await connection.fetchval(
        f"SELECT id = (SELECT max(id) FROM audit) FROM audit {where}"
    )
    return bool(newest)
