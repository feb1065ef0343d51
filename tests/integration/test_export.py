from __future__ import annotations

import csv
import io
from collections import defaultdict
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from tests.helpers.acting import by
from tests.helpers.commands import Commands
from tests.helpers.history import everything
from tests.helpers.ledger import Ledger
from tests.helpers.servers import Stack

from faregate.ledger import acts
from faregate.ledger.erase import erase
from faregate.ledger.export import COLUMNS, Wanted, decimal, export, safe

pytestmark = pytest.mark.stack


async def exported(ledger: Ledger, **wanted: Any) -> list[dict[str, str]]:
    file = io.StringIO()
    done = await export(ledger.store.pool, Wanted(**wanted), file)
    rows = list(csv.DictReader(io.StringIO(file.getvalue())))
    assert len(rows) == done
    return rows


async def test_exported_amounts_sum_up_to_the_balances(ledger: Ledger) -> None:
    await everything(ledger)
    rows = await exported(ledger)
    sums: dict[str, list[Decimal]] = defaultdict(lambda: [Decimal(), Decimal(), Decimal()])
    for row in rows:
        for n, name in enumerate(("amount", "held_delta", "debt_delta")):
            sums[row["account"]][n] += Decimal(row[name])
    balances = await ledger.store.pool.fetch(
        "SELECT s.subject, a.balance, a.held, a.debt FROM accounts a "
        "JOIN subjects s ON s.account_id = a.id WHERE a.sequence > 0 AND subject !~ '^member:'"
    )
    assert {s: [int(v * 1_000_000) for v in values] for s, values in sums.items()} == {
        r["subject"]: [r["balance"], r["held"], r["debt"]] for r in balances
    }


async def test_allocations_are_left_out_unless_they_are_asked_for(ledger: Ledger) -> None:
    await everything(ledger)
    own, all_ = await exported(ledger), await exported(ledger, allocations=True)
    assert not [r for r in own if r["account"].startswith("member:")]
    more = [r for r in all_ if r["account"].startswith("member:")]
    assert len(own) + len(more) == len(all_)
    allocated = next(r for r in more if r["user"] == "user:fay")
    assert (allocated["org"], allocated["amount"]) == ("org:corp", "100")


async def test_the_order_is_the_same_each_time(ledger: Ledger) -> None:
    await everything(ledger)
    rows = await exported(ledger)
    assert rows == await exported(ledger)
    ids = [int(r["id"]) for r in rows]
    assert ids == sorted(ids)
    assert list(rows[0]) == list(COLUMNS)


async def test_grants_times_and_amounts_can_be_read_back_exactly(ledger: Ledger) -> None:
    await ledger.grant("user:bea", 2.000001)
    await ledger.usage(user="bea", units=1)
    made, charged = await exported(ledger)
    assert (made["amount"], made["grants"]) == ("2.000001", "1:2.000001:0")
    assert (charged["amount"], charged["grants"]) == ("-1", "1:-1:0")
    assert (charged["balance"], charged["available"]) == ("1.000001", "1.000001")
    assert charged["at"].endswith("Z")
    assert datetime.fromisoformat(charged["at"]) == await ledger.store.pool.fetchval(
        "SELECT max(at) FROM entries"
    )


async def test_a_refund_names_the_charge_that_it_gave_back(ledger: Ledger) -> None:
    await ledger.set_balance("user:bea", 9)
    await ledger.usage("p1", user="bea", units=2, usage_id="u1")
    await acts.refund(ledger.store, usage_id="u1", **by())
    _, charged, refund = await exported(ledger)
    assert [refund[n] for n in ("usage_id", "pipeline_id")] == ["u1", "p1"]
    assert (refund["charge_id"], charged["charge_id"]) == (charged["outcome_id"], "")


async def test_a_period_takes_its_start_and_not_its_end(ledger: Ledger) -> None:
    for credits_ in (1, 2, 3):
        await ledger.grant("user:bea", credits_)
    moments = [r["at"] for r in await ledger.store.pool.fetch("SELECT at FROM entries ORDER BY id")]
    inside = await exported(ledger, start=moments[1], end=moments[2])
    assert [r["amount"] for r in inside] == ["2"]


async def test_an_account_is_given_also_when_it_is_erased(
    ledger: Ledger, database_url: str
) -> None:
    await ledger.grant("user:42", 5)
    await ledger.grant("user:bea", 6)
    number = await ledger.store.names.find("user:42")
    owner = await asyncpg.connect(database_url, timeout=10)
    await erase(owner, ledger.store.keys, "user:42", by="root", force=True)
    await owner.close()
    (row,) = await exported(ledger, account_id=number)
    assert (row["account"], row["amount"], row["event_id"]) == (f"erased:{number}", "5", "")


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "'quoted"])
async def test_no_text_is_a_formula_and_each_can_be_read_back(ledger: Ledger, text: str) -> None:
    await ledger.usage(user="bea", usage_id=text)
    (row,) = await exported(ledger)
    assert row["usage_id"] == f"'{text}"
    assert row["usage_id"].removeprefix("'") == text
    assert row["debt_delta"] == "1"


def test_amounts_are_plain_decimals() -> None:
    amounts = (0, 1, -1, 100_000, -2_500_000, 10**15 - 1, -(10**15) + 1, 5_000_000)
    assert [decimal(a) for a in amounts] == [
        "0",
        "0.000001",
        "-0.000001",
        "0.1",
        "-2.5",
        "999999999.999999",
        "-999999999.999999",
        "5",
    ]
    assert [safe(t) for t in ("user:42", "", "a=b", "=a")] == ["user:42", "", "a=b", "'=a"]


async def test_the_command_writes_a_whole_file_or_stdout(
    ledger: Ledger, stack: Stack, database_url: str, tmp_path: Path
) -> None:
    commands = Commands(stack, database_url)
    await everything(ledger)
    expected = len(await exported(ledger))
    file = tmp_path / "entries.csv"
    done = await commands.json("export", "--output", str(file))
    assert done == {"entries": expected, "file": str(file)}
    assert file.read_text() == await commands.run("export")
    assert [p.name for p in tmp_path.iterdir()] == ["entries.csv"]
    of_bob = await commands.run("export", "--account", "user:bob", "--to", "2000-01-01")
    assert of_bob.splitlines() == [",".join(COLUMNS)]


async def test_the_command_says_what_it_cannot_do(
    ledger: Ledger, stack: Stack, database_url: str, tmp_path: Path
) -> None:
    commands = Commands(stack, database_url)
    assert (await commands.json("export", code=2))["error"] == "usage"
    refused = await commands.json(
        "export", "--account", "user:nobody", "--output", str(tmp_path / "x"), code=1
    )
    assert refused["error"] == "unknown_account"
    assert list(tmp_path.iterdir()) == []
    await commands.run("export", "--account", "nobody", code=2)
    await commands.run("export", "--output", str(tmp_path / "no" / "x"), code=2)
