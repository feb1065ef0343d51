"""What verify says of grants, holds, allocations, refunds and plans that were changed."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest
from tests.helpers import tampering as tamper
from tests.helpers.ledger import Ledger
from tests.helpers.tampering import account_id, cover_up, tampering

from faregate.ledger.core import SetTier
from faregate.ledger.verify import check_triggers, verify

pytestmark = pytest.mark.stack


def of(subject: str) -> str:
    return f"(SELECT account_id FROM subjects WHERE subject = '{subject}')"


ERIN, SCHOOL, TINA, NORA = of("user:erin"), of("org:school"), of("user:tina"), of("user:nora")
MEMBER = "(SELECT account_id FROM members)"
LIVE = "state = 'live' AND payer_id ="
PLAN = "UPDATE accounts SET plan = plan"
GRANT = f"UPDATE grants SET {{}} WHERE account_id = {ERIN} AND number = 2"
GRANTS = f"UPDATE accounts SET grants = {{}} WHERE id = {ERIN}"

TAMPERINGS: dict[str, tuple[str, str, str]] = {
    **{
        f"a grant's {column}": (GRANT.format(change), "grant", "grants account user:erin number 2 ")
        for column, change in {
            "amount": "amount = amount + 1",
            "priority": "priority = 1",
            "kind": "kind = 'purchase'",
            "expires_at": "expires_at = expires_at + interval '1 year'",
            "expires_at, taken away": "expires_at = NULL",
            "at": "at = at - interval '1 s'",
            "number": "number = 77",
            "account": f"account_id = {TINA}, number = 77",
        }.items()
    },
    "a grant's row deleted": (
        f"DELETE FROM grants WHERE account_id = {ERIN} AND number = 3",
        "grant",
        "grants account user:erin number 3 ",
    ),
    "a grant's row put in by hand": (
        (
            "INSERT INTO grants SELECT id + 1000000, account_id, 99, at, kind, amount, priority "
            f"FROM grants WHERE account_id = {ERIN} AND number = 3"
        ),
        "grant",
        "grants account user:erin number 99 ",
    ),
    "what was granted to an account": (
        f"UPDATE accounts SET granted = granted + 1 WHERE id = {ERIN}",
        "account",
        "accounts account user:erin (id ",
    ),
    "what is left of a grant": (
        GRANTS.format("jsonb_set(grants, '{0,1}', '2000001')"),
        "account",
        "accounts account user:erin (id ",
    ),
    "the priority of a live grant": (
        GRANTS.format("jsonb_set(grants, '{0,3}', '1')"),
        "account",
        "accounts account user:erin (id ",
    ),
    "the end of a live grant": (
        GRANTS.format("jsonb_set(grants, '{1,4}', 'null')"),
        "account",
        "accounts account user:erin (id ",
    ),
    "the order of grants": (
        GRANTS.format("jsonb_build_array(grants -> 2, grants -> 0, grants -> 1)"),
        "account",
        "accounts account user:erin (id ",
    ),
    "grants that nobody can read": (
        GRANTS.format("'[[1], {}]'"),
        "account",
        "accounts account user:erin (id ",
    ),
    "when a grant is to expire": (
        f"UPDATE accounts SET due_at = NULL WHERE id = {ERIN}",
        "account",
        "accounts account user:erin (id ",
    ),
    "what a hold has pinned": (
        f"UPDATE pipelines SET pins = '[[2, 1]]' WHERE {LIVE} {ERIN}",
        "pins",
        "pipelines account user:erin pipeline_key ",
    ),
    "pins that nobody can read": (
        f"""UPDATE pipelines SET pins = '{{"a": 1}}' WHERE {LIVE} {ERIN}""",
        "pins",
        "pipelines account user:erin pipeline_key ",
    ),
    "pins that are no numbers": (
        f"""UPDATE pipelines SET pins = '[[2, "x"], 5, null]' WHERE {LIVE} {ERIN}""",
        "pins",
        "pipelines account user:erin pipeline_key ",
    ),
    "which grant a hold has pinned": (
        f"UPDATE pipelines SET pins = '[[1, 1000000]]' WHERE {LIVE} {ERIN}",
        "pins",
        "accounts account user:erin (id ",
    ),
    "what a hold has pinned of an allocation": (
        f"UPDATE pipelines SET member_pins = '[]' WHERE {LIVE} {SCHOOL}",
        "pins",
        "pipelines account member:",
    ),
    "the member of a hold": (
        f"UPDATE pipelines SET member_id = NULL, member_pins = '[]' WHERE {LIVE} {SCHOOL}",
        "hold",
        "entries account member:",
    ),
    "a closed hold that pins": (
        "UPDATE pipelines SET pins = '[[1, 5]]' WHERE state = 'closed'",
        "pins",
        "pipelines account ",
    ),
    "a member": (
        "UPDATE members SET user_id = user_id + 1",
        "member",
        "members account member:",
    ),
    "a member's row deleted": ("DELETE FROM members", "member", "members account member:"),
    "a member put in by hand": (
        f"INSERT INTO members SELECT {SCHOOL}, {ERIN}, {TINA}",
        "member",
        "members account user:tina (id ",
    ),
    "an org's charge for a member, deleted": (
        f"DELETE FROM entries WHERE account_id = {SCHOOL} AND kind = 'release'",
        "allocation",
        "entries account member:",
    ),
    "the charge of a refund": (
        """UPDATE outcomes SET body = body || '{"of": 1}' WHERE command = 'refund'""",
        "refund",
        "entries account user:erin sequence ",
    ),
    "a refund of nothing that is a number": (
        """UPDATE outcomes SET body = body || '{"of": "x"}' WHERE command = 'refund'""",
        "refund",
        "entries account user:erin sequence ",
    ),
    "a charge refunded twice": (
        (
            "UPDATE outcomes SET body = body || jsonb_build_object('of', (SELECT max((body ->> "
            "'of')::bigint) FROM outcomes WHERE command = 'refund')) WHERE command = 'refund'"
        ),
        "refund",
        "entries account user:erin sequence ",
    ),
    "what a refund says": (
        """UPDATE outcomes SET body = body || '{"amount": 1}' WHERE command = 'refund'""",
        "refund",
        "entries account user:erin sequence ",
    ),
    "a refund's entry deleted": (
        "DELETE FROM entries WHERE kind = 'refund'",
        "refund",
        "outcomes id ",
    ),
    "a refund's outcome deleted": (
        "DELETE FROM outcomes WHERE command = 'refund'",
        "refund",
        "entries account user:erin sequence ",
    ),
    "the calls of an account": (
        f"""{PLAN} || '{{"calls": 1}}' WHERE id = {TINA}""",
        "plan",
        "accounts account user:tina (id ",
    ),
    "calls that are no number": (
        f"""{PLAN} || '{{"calls": "1"}}' WHERE id = {TINA}""",
        "plan",
        "accounts account user:tina (id ",
    ),
    "the start of a period without a tier": (
        f"""{PLAN} || '{{"period_start": 1995273734442106}}' WHERE id = {ERIN}""",
        "plan",
        "accounts account user:erin (id ",
    ),
    "the start of a tier's period": (
        f"""{PLAN} || '{{"period_start": 1700000000000000}}' WHERE id = {TINA}""",
        "plan",
        "accounts account user:tina (id ",
    ),
    "the calls of an outcome": (
        f"UPDATE outcomes SET calls = 2 WHERE user_id = {TINA} AND calls = 1",
        "plan",
        "accounts account user:tina (id ",
    ),
    "a tier": (
        f"""{PLAN} || '{{"tier": "enterprise"}}' WHERE id = {TINA}""",
        "plan",
        "accounts account user:tina (id ",
    ),
    "a tier that nobody set": (
        f"""{PLAN} || '{{"tier": "enterprise"}}' WHERE id = {ERIN}""",
        "plan",
        "accounts account user:erin (id ",
    ),
    "the next tier": (
        f"""{PLAN} || '{{"next_tier": "enterprise"}}' WHERE id = {TINA}""",
        "plan",
        "accounts account user:tina (id ",
    ),
    "a quota": (
        f"{PLAN} - 'call_limit' WHERE id = {TINA}",
        "plan",
        "accounts account user:tina (id ",
    ),
    "the threshold of an alert": (
        f"""{PLAN} || '{{"low_micro": 1, "low_percent": 2}}' WHERE id = {TINA}""",
        "plan",
        "accounts account user:tina (id ",
    ),
    "an org's policy": (
        f"{PLAN} - 'policy' WHERE id = {SCHOOL}",
        "plan",
        "accounts account org:school (id ",
    ),
    "a member's role": (
        f"""{PLAN} || '{{"role": "removed"}}' WHERE id = {MEMBER}""",
        "plan",
        "accounts account member:",
    ),
    "that somebody was welcomed": (
        f"{PLAN} - 'welcome' WHERE id = {NORA}",
        "plan",
        "accounts account user:nora (id ",
    ),
    "that a milestone was reached": (
        f"{PLAN} - 'milestones' WHERE id = {NORA}",
        "plan",
        "accounts account user:nora (id ",
    ),
    "a whole plan": (
        f"UPDATE accounts SET plan = '[]' WHERE id = {TINA}",
        "plan",
        "accounts account user:tina (id ",
    ),
}


@pytest.mark.parametrize("what", TAMPERINGS)
async def test_a_change_behind_the_ledgers_back_is_named(
    lived: Ledger, database_url: str, what: str
) -> None:
    sql, kind, row = TAMPERINGS[what]
    async with tampering(database_url) as connection:
        assert not (await connection.execute(sql)).endswith(" 0")
        await cover_up(connection)
        report = await verify(connection)
    assert any(found.startswith(row) for found in tamper.named(report, kind)), report.findings


async def test_a_grant_that_is_gone_is_named_once_by_the_entries_that_spent_it(
    lived: Ledger, database_url: str
) -> None:
    async with tampering(database_url) as connection:
        acme = await account_id(connection, "org:acme")
        await connection.execute("DELETE FROM entries WHERE account_id = $1 AND sequence = 1", acme)
        await cover_up(connection)
        report = await verify(connection)
    (row,) = [r for r in tamper.named(report, "grants") if "org:acme" in r]
    assert row.startswith("entries account org:acme sequence 2 (id ")


def _more_for_the_member(row: dict[str, Any]) -> None:
    if row["kind"] == "usage" and not row["held_delta"]:
        row["amount"] -= 1


async def test_a_member_who_pays_more_than_their_org_is_named(
    lived: Ledger, database_url: str
) -> None:
    async with tampering(database_url) as connection:
        number = await connection.fetchval("SELECT account_id FROM members")
        await tamper.rewrite(connection, number, _more_for_the_member)
        await cover_up(connection)
        report = await verify(connection)
    (row,) = tamper.named(report, "allocation")
    assert row.startswith("entries account member:")


@pytest.mark.parametrize(
    ("table", "sql"),
    [
        (
            table,
            f"""CREATE OR REPLACE TRIGGER append_only BEFORE UPDATE OF id OR DELETE OR TRUNCATE
                ON {table} FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
                ALTER TABLE {table} ENABLE ALWAYS TRIGGER append_only""",
        )
        for table in ("entries", "outcomes", "grants", "audit")
    ]
    + [(table, f"ALTER TABLE {table} ADD COLUMN more text") for table in ("grants", "audit")],
)
async def test_a_trigger_that_leaves_a_column_out_is_named(
    database_url: str, table: str, sql: str
) -> None:
    async with tampering(database_url) as connection:
        await cover_up(connection)
        assert await check_triggers(connection) == []
        await connection.execute(sql)
        (found,) = await check_triggers(connection)
    assert found.row == f"{table} trigger append_only"
    assert "does not refuse every UPDATE" in found.message


# --- what is no drift ---------------------------------------------------------------------------


async def test_who_allocated_and_who_acted_can_be_erased(lived: Ledger, database_url: str) -> None:
    connection = await asyncpg.connect(database_url, timeout=10)
    await connection.execute("UPDATE grants SET allocated_by = NULL, notes = NULL")
    await connection.execute("UPDATE audit SET actor = NULL")
    report = await verify(connection)
    await connection.close()
    assert report.findings == []


async def test_calls_of_the_instant_in_which_a_tier_began_belong_to_the_period_before(
    ledger: Ledger,
) -> None:
    make = ledger.make
    await ledger.set_balance("user:alice", 100)
    await ledger.apply(
        make.request(user="alice", items=2),
        make.act(lambda i: SetTier(i, "user:alice", "starter")),
        make.request(user="alice", items=2),
    )
    plan = await ledger.store.pool.fetchval("SELECT plan ->> 'calls' FROM accounts")
    assert plan == "1"
    assert (await verify(ledger.store.pool)).findings == []
