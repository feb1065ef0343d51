from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.helpers import tampering as tamper
from tests.helpers.ledger import Ledger
from tests.helpers.tampering import account_id, announced, cover_up, tampering

from faregate.ledger import chain, verify_streams
from faregate.ledger.batch import Refs, Submission
from faregate.ledger.core import CloseHold, Identity, Outcome
from faregate.ledger.store import Store
from faregate.ledger.verify import Checkpoint, check_triggers, verify
from faregate.ledger.verify_report import KEPT_PER_KIND
from faregate.ledger.write import TX_BITS

pytestmark = pytest.mark.stack

ACME = "(SELECT account_id FROM subjects WHERE subject = 'org:acme')"
PLAIN = "(SELECT account_id FROM subjects WHERE subject = 'org:plain')"
CAROL = "(SELECT account_id FROM subjects WHERE subject = 'user:carol')"


# --- nothing was changed ------------------------------------------------------------------------


async def test_an_empty_ledger_is_sound(store: Store) -> None:
    report = await verify(store.pool)
    assert report.ok
    assert (report.entries, report.accounts) == (0, 0)


async def test_a_sound_ledger_has_no_findings_and_says_what_is_open(lived: Ledger) -> None:
    pool = lived.store.pool
    report = await verify(pool, checkpoints=await announced(pool))
    assert report.findings == []
    assert report.ok
    assert (
        report.entries == report.checkpoints == await pool.fetchval("SELECT count(*) FROM entries")
    )
    assert report.accounts == await pool.fetchval("SELECT count(*) FROM accounts")
    assert report.notes["unpriced"] == 1
    assert report.notes["unpriced_first"][0]["model"] == "gpt"
    assert report.notes["live_holds"] == 6
    assert report.notes["accounts_in_debt"] == 2
    assert report.notes["outbox_waiting"] > 0


async def test_a_report_is_one_json_object(lived: Ledger) -> None:
    document = json.loads(json.dumps((await verify(lived.store.pool)).as_json()))
    assert document["ok"] is True
    assert document["findings"] == []


async def test_progress_ends_at_the_number_of_entries(lived: Ledger) -> None:
    seen: list[tuple[int, int]] = []
    report = await verify(lived.store.pool, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (report.entries, report.entries)


async def test_small_chunks_give_the_same_answer(
    lived: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify_streams, "_CHUNK", 2)
    report = await verify(lived.store.pool, checkpoints=await announced(lived.store.pool))
    assert report.ok
    assert report.checkpoints == report.entries


async def test_erasing_a_person_is_no_drift(lived: Ledger, database_url: str) -> None:
    said = await announced(lived.store.pool)
    async with tampering(database_url) as connection:
        alice = await account_id(connection, "user:alice")
        await connection.execute("UPDATE subjects SET subject = NULL WHERE account_id = $1", alice)
        await connection.execute(
            "UPDATE refs SET event_id = NULL, usage_id = NULL, pipeline_id = NULL "
            "WHERE outcome_id IN (SELECT id FROM outcomes WHERE user_id = $1)",
            alice,
        )
        await connection.execute(
            "DELETE FROM refs WHERE outcome_id IN (SELECT max(id) FROM outcomes)"
        )
        await cover_up(connection)
        erased = [
            dataclasses.replace(c, account=f"erased:{alice}")
            for c in said
            if c.account == "user:alice"
        ]
        report = await verify(connection, checkpoints=said + erased)
    assert report.findings == []
    assert erased


async def test_a_released_hold_whose_time_was_over_is_sound(lived: Ledger) -> None:
    store = lived.store
    await store.pool.execute(
        "UPDATE pipelines SET expires_at = now() - interval '1 s' WHERE state = 'live'"
    )
    row = await store.pool.fetchrow("SELECT * FROM pipelines WHERE state = 'live'")
    key = store.keys.internal("close", row["hold_id"].hex)
    close = CloseHold(Identity(key, key), row["pipeline_key"].bytes, row["hold_id"].bytes)
    (result,) = await store.apply([Submission(close, Refs("faregate", None, "live"))])
    assert isinstance(result, Outcome)
    assert (await verify(store.pool)).findings == []


# --- every kind of tampering, once --------------------------------------------------------------

TAMPERINGS: dict[str, tuple[str, str, str]] = {
    "an entry's amount": (
        f"UPDATE entries SET amount = amount + 1 WHERE account_id = {ACME} AND sequence = 2",
        "balance",
        "entries account org:acme sequence 2 (id ",
    ),
    "an entry's reason": (
        f"UPDATE entries SET reason = 'other' WHERE account_id = {PLAIN} AND sequence = 1",
        "hash",
        "entries account org:plain sequence 1 (id ",
    ),
    "an entry's hash": (
        f"UPDATE entries SET hash = sha256(hash) WHERE account_id = {ACME} AND sequence = 4",
        "hash",
        "entries account org:acme sequence 4 (id ",
    ),
    "an entry's time, out of all range": (
        f"UPDATE entries SET at = 'infinity' WHERE account_id = {ACME} AND sequence = 4",
        "hash",
        "entries account org:acme sequence 4 (id ",
    ),
    "an entry deleted in the middle": (
        f"DELETE FROM entries WHERE account_id = {ACME} AND sequence = 2",
        "sequence",
        "entries account org:acme sequence 3 (id ",
    ),
    "an entry deleted at the end": (
        f"DELETE FROM entries WHERE account_id = {PLAIN} AND sequence = 3",
        "account",
        "accounts account org:plain (id ",
    ),
    "a whole account's entries deleted": (
        f"DELETE FROM entries WHERE account_id = {PLAIN}",
        "account",
        "accounts account org:plain (id ",
    ),
    "an account's row": (
        f"UPDATE accounts SET balance = balance + 1 WHERE id = {ACME}",
        "account",
        "accounts account org:acme (id ",
    ),
    "an account's last_at": (
        f"UPDATE accounts SET last_at = last_at - interval '1 s' WHERE id = {ACME}",
        "account",
        "accounts account org:acme (id ",
    ),
    "an empty account's balance": (
        f"UPDATE accounts SET balance = 5000000 WHERE id = {CAROL}",
        "account",
        "accounts account user:carol (id ",
    ),
    "an account's row deleted": (
        f"DELETE FROM accounts WHERE id = {ACME}",
        "orphan",
        "accounts account org:acme (id ",
    ),
    "a subject deleted": (
        f"DELETE FROM subjects WHERE account_id = {ACME}",
        "orphan",
        "subjects account #",
    ),
    "a subject changed": (
        "UPDATE subjects SET subject = 'org:acne' WHERE subject = 'org:acme'",
        "subject",
        "subjects account org:acne (id ",
    ),
    "an outcome's event_key": (
        "UPDATE outcomes SET event_key = gen_random_uuid() WHERE result = 'charged'",
        "cause",
        "entries account org:acme sequence 3 (id ",
    ),
    "an outcome's usage_key": (
        "UPDATE outcomes SET usage_key = gen_random_uuid() WHERE result = 'charged'",
        "ref",
        "refs outcome_id ",
    ),
    "an outcome's count of entries": (
        "UPDATE outcomes SET entries = entries + 1 WHERE result = 'denied'",
        "outcome",
        "outcomes id ",
    ),
    "an outcome's result": (
        "UPDATE outcomes SET result = 'unpriced' WHERE result = 'charged'",
        "outcome",
        "outcomes id ",
    ),
    "an outcome's user": (
        f"UPDATE outcomes SET user_id = {CAROL} WHERE result = 'charged'",
        "cause",
        "entries account org:acme sequence 3 (id ",
    ),
    "an outcome's body, of a live hold": (
        "UPDATE outcomes SET body = body || '{\"reserved\": 1}' WHERE result = 'initiated'",
        "request",
        "pipelines account org:acme pipeline_key ",
    ),
    "what a denial said": (
        "UPDATE outcomes SET body = body || '{\"required\": 1}' WHERE result = 'denied'",
        "seal",
        "outcomes id ",
    ),
    "an outcome's fingerprint": (
        "UPDATE outcomes SET fingerprint = gen_random_uuid() WHERE result = 'denied'",
        "seal",
        "outcomes id ",
    ),
    "an outcome's calls": (
        "UPDATE outcomes SET calls = 0 WHERE calls = 1 AND result = 'initiated'",
        "seal",
        "outcomes id ",
    ),
    "an outcome put in by hand": (
        (
            "INSERT INTO outcomes SELECT id + 100, gen_random_uuid(), NULL, fingerprint, command, "
            "result, entries, user_id, org_id, at, body, batch_size, calls, seal FROM outcomes "
            "WHERE result = 'denied'"
        ),
        "seal",
        "outcomes id ",
    ),
    "a price that was charged": (
        "UPDATE price_versions SET book = jsonb_set(book, '{phases,cj_assessment,credits}', '2')",
        "price",
        "entries account org:acme sequence 3 (id ",
    ),
    "an outcome deleted": (
        "DELETE FROM outcomes WHERE command = 'set_balance'",
        "cause",
        "entries account org:plain sequence 1 (id ",
    ),
    "a reference's event_id": (
        "UPDATE refs SET event_id = event_id || 'x'",
        "ref",
        "refs outcome_id ",
    ),
    "a reference's usage_id": (
        "UPDATE refs SET usage_id = usage_id || 'x' WHERE usage_id IS NOT NULL",
        "ref",
        "refs outcome_id ",
    ),
    "a reference's pipeline_id": (
        "UPDATE refs SET pipeline_id = 'x' WHERE pipeline_id = 'live'",
        "ref",
        "refs outcome_id ",
    ),
    "a source": ("UPDATE sources SET source = source || 'x'", "ref", "refs outcome_id "),
    "a hold's remaining": (
        "UPDATE pipelines SET remaining = remaining + 1 WHERE state = 'live'",
        "hold",
        "pipelines account org:acme pipeline_key ",
    ),
    "a hold's amount": (
        "UPDATE pipelines SET amount = amount + 1 WHERE state = 'live'",
        "hold",
        "pipelines account org:acme pipeline_key ",
    ),
    "a hold closed without a release": (
        "UPDATE pipelines SET state = 'closed', remaining = 0 WHERE state = 'live'",
        "hold",
        "accounts account org:acme (id ",
    ),
    "a live hold's pipeline deleted": (
        "DELETE FROM pipelines WHERE state = 'live'",
        "hold",
        "entries account org:acme hold_id ",
    ),
    "a hold of nobody": (
        "UPDATE pipelines SET hold_id = gen_random_uuid() WHERE state = 'live'",
        "hold",
        "pipelines account org:acme pipeline_key ",
    ),
    "a price version deleted": (
        "DELETE FROM price_versions",
        "cause",
        "entries account org:acme sequence 2 (id ",
    ),
}


@pytest.mark.parametrize("what", TAMPERINGS)
async def test_a_change_behind_the_ledgers_back_is_named(
    lived: Ledger, database_url: str, what: str
) -> None:
    sql, kind, row = TAMPERINGS[what]
    async with tampering(database_url) as connection:
        done = await connection.execute(sql)
        assert not done.endswith(" 0")
        await cover_up(connection)
        report = await verify(connection)
    assert not report.ok
    assert any(found.startswith(row) for found in tamper.named(report, kind)), report.findings


@pytest.mark.parametrize("table", ["entries", "outcomes", "price_versions", "grants", "audit"])
@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("DROP TRIGGER append_only ON {}", "missing"),
        ("ALTER TABLE {} DISABLE TRIGGER append_only", "not ENABLE ALWAYS"),
        ("ALTER TABLE {} ENABLE TRIGGER append_only", "not ENABLE ALWAYS"),
        (
            """CREATE OR REPLACE TRIGGER append_only BEFORE UPDATE ON {}
               FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
               ALTER TABLE {} ENABLE ALWAYS TRIGGER append_only""",
            "does not refuse every",
        ),
        (
            """CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql
               AS 'BEGIN RETURN NULL; END'""",
            "does not refuse every",
        ),
        ("GRANT UPDATE ON {} TO faregate_app", "may UPDATE"),
        ("GRANT UPDATE (id) ON entries TO faregate_app", "may UPDATE"),
    ],
)
async def test_a_table_that_could_be_changed_is_named(
    database_url: str, table: str, sql: str, message: str
) -> None:
    async with tampering(database_url) as connection:
        await cover_up(connection)
        assert await check_triggers(connection) == []
        await connection.execute(sql.format(table, table))
        found = await check_triggers(connection)
        report = await verify(connection)
    assert any(message in finding.message for finding in found)
    assert not report.ok
    assert set(found) <= set(report.findings)


# --- what somebody careful would do -------------------------------------------------------------


async def test_one_changed_row_is_one_finding_in_its_chain(
    lived: Ledger, database_url: str
) -> None:
    for column in ("amount", "balance", "held", "hash", "at"):
        async with tampering(database_url) as connection:
            how = {"hash": "sha256(hash)", "at": "at + interval '1 day'"}.get(
                column, f"{column} + 1"
            )
            await connection.execute(
                f"UPDATE entries SET {column} = {how} WHERE account_id = {ACME} AND sequence = 3"
            )
            await cover_up(connection)
            report = await verify(connection)
        chain_kinds = ("sequence", "balance", "hash", "time", "range", "debt")
        named = [f.row for f in report.findings if f.kind in chain_kinds]
        assert len(named) == 1, report.findings
        assert named[0].startswith("entries account org:acme sequence 3 (id ")


async def test_two_entries_that_changed_places_are_both_named(
    lived: Ledger, database_url: str
) -> None:
    async with tampering(database_url) as connection:
        acme = await account_id(connection, "org:acme")
        columns = ", ".join(c for c in (*chain.COLUMNS, "hash") if c not in ("id", "sequence"))
        await connection.execute(
            "CREATE TEMP TABLE pair AS SELECT * FROM entries "
            f"WHERE account_id = {acme} AND sequence IN (3, 5)"
        )
        for one, other in ((3, 5), (5, 3)):
            await connection.execute(
                f"UPDATE entries SET ({columns}) = (SELECT {columns} FROM pair WHERE sequence = "
                f"{other}) WHERE account_id = {acme} AND sequence = {one}"
            )
        await cover_up(connection)
        report = await verify(connection)
    named = " ".join(finding.row for finding in report.findings)
    assert "account org:acme sequence 3 (id" in named
    assert "account org:acme sequence 5 (id" in named


@pytest.mark.parametrize("sealed", [False, True])
async def test_an_inserted_entry_is_named(
    lived: Ledger, database_url: str, *, sealed: bool
) -> None:
    async with tampering(database_url) as connection:
        plain = await account_id(connection, "org:plain")
        names = ", ".join(chain.COLUMNS)
        copied = names.replace(
            "id, account_id, sequence, at, amount",
            ("id + 1000000, account_id, sequence + 1, at, 7000000"),
            1,
        ).replace(" balance,", " balance + 7000000,", 1)
        await connection.execute(
            f"INSERT INTO entries ({names}, hash) SELECT {copied}, hash FROM entries "
            f"WHERE account_id = {plain} AND sequence = 3"
        )
        if sealed:
            await tamper.seal_row(connection, plain, 4)
            await tamper.match_account(connection, plain)
        await cover_up(connection)
        report = await verify(connection)
    assert bool(tamper.named(report, "hash")) != sealed
    assert len(tamper.named(report, "outcome")) == 1  # it names an outcome that wrote one entry


async def test_a_row_that_was_changed_and_sealed_again_breaks_the_next_one(
    lived: Ledger, database_url: str
) -> None:
    async with tampering(database_url) as connection:
        acme = await account_id(connection, "org:acme")
        await connection.execute(
            f"UPDATE entries SET units = 9 WHERE account_id = {acme} AND sequence = 3"
        )
        await tamper.seal_row(connection, acme, 3)
        await cover_up(connection)
        report = await verify(connection)
    (row,) = tamper.named(report, "hash")
    assert row.startswith("entries account org:acme sequence 4 (id ")


def _double_the_first(row: dict[str, Any]) -> None:
    if row["sequence"] == 1:
        row["amount"] *= 2


async def test_an_account_rewritten_to_the_last_hash_is_found_by_its_checkpoints(
    lived: Ledger, database_url: str
) -> None:
    said = [c for c in await announced(lived.store.pool) if c.account == "org:plain"]
    async with tampering(database_url) as connection:
        await tamper.rewrite(
            connection, await account_id(connection, "org:plain"), _double_the_first
        )
        await cover_up(connection)
        assert (await verify(connection)).ok  # inside of the database everything fits
        report = await verify(connection, checkpoints=said[-1:])
    (row,) = tamper.named(report, "checkpoint")
    assert row.startswith("entries account org:plain sequence 3 (id ")


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("care", ["none", "account", "outcomes"])
async def test_entries_cut_off_at_the_end_are_found(
    lived: Ledger, database_url: str, count: int, care: str
) -> None:
    said = await announced(lived.store.pool)
    async with tampering(database_url) as connection:
        plain = await account_id(connection, "org:plain")
        outcomes = await tamper.cut_off(connection, plain, count)
        if care != "none":
            await tamper.match_account(connection, plain)
        if care == "outcomes":
            await tamper.forget_outcomes(connection, outcomes)
        await cover_up(connection)
        without = await verify(connection)
        report = await verify(connection, checkpoints=said)
    assert bool(tamper.named(without, "account")) == (care == "none")
    assert bool(tamper.named(without, "outcome")) == (care != "outcomes")
    assert without.ok == (care == "outcomes")
    missing = tamper.named(report, "checkpoint")
    assert missing == [f"checkpoints of org:plain sequence {n}" for n in range(4 - count, 4)]
    says = (
        "this entry was announced"
        if care == "none"
        else f"the account ends at sequence {3 - count}"
    )
    assert all(says in f.message for f in report.findings if f.kind == "checkpoint")


@pytest.mark.parametrize("thorough", [False, True])
async def test_an_account_removed_with_all_its_rows_is_found(
    lived: Ledger, database_url: str, *, thorough: bool
) -> None:
    said = await announced(lived.store.pool)
    async with tampering(database_url) as connection:
        plain = await account_id(connection, "org:plain")
        outcomes = await tamper.cut_off(connection, plain, 100)
        await connection.execute("DELETE FROM accounts WHERE id = $1", plain)
        await connection.execute("DELETE FROM subjects WHERE account_id = $1", plain)
        if thorough:
            await tamper.forget_outcomes(connection, outcomes)
        await cover_up(connection)
        report = await verify(connection, checkpoints=said)
    assert len(tamper.named(report, "outcome")) == (0 if thorough else 3)
    assert tamper.named(report, "checkpoint") == [
        f"checkpoints of org:plain sequence {n}" for n in (1, 2, 3)
    ]


async def test_findings_are_listed_up_to_a_limit_and_all_counted(
    ledger: Ledger, database_url: str
) -> None:
    many = KEPT_PER_KIND + 50
    await ledger.apply(*[ledger.make.set_balance(f"org:o{n}", 1) for n in range(many)])
    async with tampering(database_url) as connection:
        await connection.execute("UPDATE entries SET reason = 'x'")
        await connection.execute("UPDATE outcomes SET entries = 2")
        await cover_up(connection)
        report = await verify(connection)
    assert report.findings_total == 3 * many  # the entry's hash, its outcome's count and seal
    assert (
        len(tamper.named(report, "hash")) == len(tamper.named(report, "outcome")) == KEPT_PER_KIND
    )


# --- any change of any row ----------------------------------------------------------------------

NUMBERS = (
    "amount",
    "held_delta",
    "debt_delta",
    "balance",
    "held",
    "debt",
    "outcome_id",
    "user_id",
    "org_id",
    "price_version",
    "units",
    "input_tokens",
    "output_tokens",
    "priority",
)
TIMES = ("occurred_at", "expires_at")
TEXTS = ("kind", "phase", "provider", "model", "reason", "tier", "alert")
CHANGES = {
    **{c: f"coalesce({c}, 0) + 1" for c in NUMBERS},
    "id": "id + 8000000000",
    "account_id": "account_id + 8000000000",
    "sequence": "sequence + 8000000000",
    "at": "at + interval '1 microsecond'",
    **{c: f"coalesce({c}, at) - interval '1 microsecond'" for c in TIMES},
    "grants": "array_append(grants, 0)",
    "cause": "gen_random_uuid()",
    "hold_id": "gen_random_uuid()",
    "byok": "(byok IS NOT TRUE)",
    "hash": "sha256(hash)",
    **{c: f"coalesce({c}, '') || 'x'" for c in TEXTS},
}
NULLABLE = (
    "hold_id",
    "user_id",
    "org_id",
    "price_version",
    "phase",
    "provider",
    "model",
    "units",
    "input_tokens",
    "output_tokens",
    "byok",
    "occurred_at",
    "reason",
    "grants",
    "priority",
    "expires_at",
    "tier",
    "alert",
)

any_time = settings(
    max_examples=120,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def test_the_changes_cover_every_column_under_the_chain() -> None:
    assert set(CHANGES) == {*chain.COLUMNS, "hash"}


@pytest.mark.timeout(300)
@any_time
@given(column=st.sampled_from(sorted(CHANGES)), n=st.integers(0, 10**6), null=st.booleans())
async def test_any_column_of_any_entry_is_protected(
    lived: Ledger, database_url: str, column: str, n: int, *, null: bool
) -> None:
    async with tampering(database_url) as connection:
        ids = await connection.fetch("SELECT id FROM entries ORDER BY id")
        how = "NULL" if null and column in NULLABLE else CHANGES[column]
        new_id = await connection.fetchval(
            f"UPDATE entries SET {column} = {how} WHERE id = $1 AND {column} IS DISTINCT FROM "
            f"{how} RETURNING id",
            ids[n % len(ids)]["id"],
        )
        await cover_up(connection)
        report = await verify(connection)
    if new_id is None:
        assert report.ok
    else:
        assert any(f.row.endswith(f"(id {new_id})") for f in report.findings), report


@pytest.mark.timeout(300)
@any_time
@given(n=st.integers(0, 10**6), tidy=st.booleans())
async def test_any_deleted_entry_is_noticed(
    lived: Ledger, database_url: str, n: int, *, tidy: bool
) -> None:
    async with tampering(database_url) as connection:
        entries = await connection.fetch("SELECT * FROM entries ORDER BY id")
        row = entries[n % len(entries)]
        await connection.execute("DELETE FROM entries WHERE id = $1", row["id"])
        if tidy:
            await tamper.match_account(connection, row["account_id"])
        await cover_up(connection)
        report = await verify(connection)
    named = tamper.named(report, "outcome")
    assert any(found.startswith(f"outcomes id {row['outcome_id']} ") for found in named)


# --- checkpoints and restored databases ---------------------------------------------------------


async def _recovered(pool: asyncpg.Pool, from_tx: int) -> None:
    await pool.execute(
        "INSERT INTO recoveries (epoch, from_tx, detail) VALUES (1, $1, 'test')", from_tx
    )


async def _of_plain(pool: asyncpg.Pool, sequence: int) -> tuple[Checkpoint, int]:
    (said,) = [
        c for c in await announced(pool) if (c.account, c.sequence) == ("org:plain", sequence)
    ]
    entry = await pool.fetchval(
        f"SELECT id FROM entries WHERE account_id = {PLAIN} AND sequence = $1", sequence
    )
    return said, entry >> TX_BITS


async def test_what_was_written_anew_after_a_restore_is_not_compared(lived: Ledger) -> None:
    pool = lived.store.pool
    said, tx = await _of_plain(pool, 3)
    other = dataclasses.replace(said, chain_head=bytes(32), balance=1)
    assert not (await verify(pool, checkpoints=[other])).ok
    await _recovered(pool, tx)
    report = await verify(pool, checkpoints=[other, dataclasses.replace(said, epoch=1)])
    assert report.ok
    assert (report.checkpoints, report.superseded) == (2, 1)


async def test_what_was_written_before_a_restore_still_counts(lived: Ledger) -> None:
    pool = lived.store.pool
    said, tx = await _of_plain(pool, 3)
    await _recovered(pool, tx + 1)
    other = dataclasses.replace(said, balance=1)
    report = await verify(pool, checkpoints=[other, dataclasses.replace(other, epoch=1)])
    assert report.superseded == 0
    assert len(tamper.named(report, "checkpoint")) == 2


async def test_what_was_announced_and_never_replayed_is_a_finding(lived: Ledger) -> None:
    pool = lived.store.pool
    said, tx = await _of_plain(pool, 3)
    await _recovered(pool, tx)
    report = await verify(pool, checkpoints=[dataclasses.replace(said, sequence=9)])
    (finding,) = report.findings
    assert finding.row == "checkpoints of org:plain sequence 9"
    assert "has not been replayed" in finding.message
    assert report.notes["recoveries"][0]["epoch"] == 1


async def test_a_name_that_was_erased_may_come_again(lived: Ledger, database_url: str) -> None:
    pool = lived.store.pool
    said = await announced(pool)
    owner = await asyncpg.connect(database_url, timeout=10)
    await owner.execute("UPDATE subjects SET subject = NULL WHERE subject = 'org:plain'")
    await owner.close()
    lived.store.forget()
    await lived.set_balance("org:plain", 1)
    again = [c for c in await announced(pool) if c.account == "org:plain"]
    assert len(again) == 1
    report = await verify(pool, checkpoints=said + again)
    assert report.findings == []
    other = dataclasses.replace(said[1], account="org:plain", sequence=2, balance=1)
    report = await verify(pool, checkpoints=[other])
    assert len(tamper.named(report, "checkpoint")) == 1


# --- since --------------------------------------------------------------------------------------


async def test_since_checks_the_accounts_that_moved_whole(lived: Ledger, database_url: str) -> None:
    border = await lived.store.pool.fetchval("SELECT clock_timestamp()")
    await lived.grant("org:plain", 1)
    report = await verify(lived.store.pool, since=border)
    assert report.ok
    assert (report.entries, report.accounts) == (4, 1)
    async with tampering(database_url) as connection:
        await connection.execute(f"UPDATE entries SET reason = 'x' WHERE account_id = {ACME}")
        await cover_up(connection)
        assert (await verify(connection, since=border)).ok
        await connection.execute("ALTER TABLE entries DISABLE TRIGGER append_only")
        await connection.execute(
            f"UPDATE entries SET reason = 'x' WHERE account_id = {PLAIN} AND sequence = 1"
        )
        await cover_up(connection)
        report = await verify(connection, since=border)
    (row,) = tamper.named(report, "hash")
    assert row.startswith("entries account org:plain sequence 1 (id ")


async def test_a_sound_ledger_is_sound_since_any_moment(lived: Ledger) -> None:
    pool = lived.store.pool
    for row in await pool.fetch("SELECT DISTINCT at FROM outcomes UNION SELECT at FROM entries"):
        assert (await verify(pool, since=row["at"])).findings == []


async def test_since_tomorrow_checks_no_account(lived: Ledger) -> None:
    report = await verify(lived.store.pool, since=datetime.now(UTC) + timedelta(days=1))
    assert report.ok
    assert report.entries == 0
