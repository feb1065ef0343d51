"""What verify says of an audit log that was changed."""

from __future__ import annotations

import asyncpg
import pytest
from tests.helpers import tampering as tamper
from tests.helpers.ledger import Ledger
from tests.helpers.tampering import cover_up, tampering

from faregate.ledger import audit
from faregate.ledger.verify import verify

pytestmark = pytest.mark.stack


TAMPERINGS: dict[str, tuple[str, str]] = {
    **{
        f"its {column}": (f"UPDATE audit SET {change} WHERE id = 4", "id 4")
        for column, change in {
            "at": "at = at + interval '1 s'",
            "at, out of all range": "at = 'infinity'",
            "action": "action = 'grant'",
            "result": "result = 'refused'",
            "account": "account_id = 1",
            "account, taken away": "account_id = NULL",
            "outcome": "outcome_id = outcome_id + 1",
            "outcome, another one": "outcome_id = (SELECT min(id) FROM outcomes)",
            "outcome, taken away": "outcome_id = NULL",
            "metadata": """metadata = metadata || '{"charge_id": 1}'""",
            "metadata, out of all range": """metadata = ('{"n": 1' || repeat('0', 5000) || '}')::jsonb""",
            "actor": "actor = 'somebody@example.com'",
            "actor_key": "actor_key = gen_random_uuid()",
            "hash": "hash = sha256(hash)",
            "hash, cut short": "hash = '\\x00'",
        }.items()
    },
    "its id": ("UPDATE audit SET id = id + 1000 WHERE id = 4", "id 5"),
    "a row deleted": ("DELETE FROM audit WHERE id = 4", "id 5"),
    "the first row deleted": ("DELETE FROM audit WHERE id = 1", "id 2"),
    "a row put in before the first": (
        (
            "INSERT INTO audit SELECT 0, at, actor_key, actor, action, result, account_id, "
            "outcome_id, metadata, hash FROM audit WHERE id = 4"
        ),
        "id 0",
    ),
    "a row put in by hand": (
        (
            "INSERT INTO audit SELECT 1 + (SELECT max(id) FROM audit), at, actor_key, actor, "
            "action, result, account_id, outcome_id, metadata, hash FROM audit WHERE id = 4"
        ),
        "id 16",
    ),
    "the outcome of an act deleted": (
        "DELETE FROM outcomes WHERE command = 'refund'",
        "id 4",
    ),
}


@pytest.mark.parametrize("what", TAMPERINGS)
async def test_a_change_of_the_log_is_named_where_it_is(
    lived: Ledger, database_url: str, what: str
) -> None:
    sql, row = TAMPERINGS[what]
    async with tampering(database_url) as connection:
        assert not (await connection.execute(sql)).endswith(" 0")
        await cover_up(connection)
        report = await verify(connection)
    (first, *_) = tamper.named(report, "audit")
    assert first.startswith("audit ")
    assert f" {row} (" in first, report.findings


async def test_one_changed_row_is_one_finding(lived: Ledger, database_url: str) -> None:
    for change in ("result = 'x'", "hash = sha256(hash)", "actor_key = gen_random_uuid()"):
        async with tampering(database_url) as connection:
            await connection.execute(f"UPDATE audit SET {change} WHERE id = 4")
            await cover_up(connection)
            report = await verify(connection)
        assert len(tamper.named(report, "audit")) == 1


async def test_a_row_that_was_changed_and_hashed_again_breaks_the_next_one(
    lived: Ledger, database_url: str
) -> None:
    async with tampering(database_url) as connection:
        await connection.execute("UPDATE audit SET result = 'set' WHERE id = 5")
        rows = await connection.fetch(
            "SELECT id, at, actor_key, action, result, account_id, outcome_id, metadata, hash "
            "FROM audit WHERE id IN (4, 5) ORDER BY id"
        )
        digest = audit.row_hash(rows[0]["hash"], list(rows[1].values()))
        await connection.execute("UPDATE audit SET hash = $1 WHERE id = 5", digest)
        await cover_up(connection)
        report = await verify(connection)
    (row,) = tamper.named(report, "audit")
    assert " id 6 (" in row


async def test_numbers_come_back_as_they_were_hashed(ledger: Ledger, database_url: str) -> None:
    """PostgreSQL writes 1e+16 as 10000000000000000, and -0.0 as 0.0."""
    numbers = [0.1, 1.0, 1e16, 1e22, 1e-7, -0.0, 1.5e300, 7, -3, None]
    act = audit.Act("ops", "settings", "set", metadata={"numbers": numbers, "text": 'é"\\\u2028'})
    connection = await asyncpg.connect(database_url, timeout=10)
    async with connection.transaction():
        now = await connection.fetchval("SELECT clock_timestamp()")
        await audit.append(connection, ledger.store.keys, now, [act, act])
    report = await verify(connection)
    await connection.close()
    assert report.findings == []
