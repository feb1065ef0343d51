"""What verify says of prices, of the increment, and of usage that cost something else."""

from __future__ import annotations

import pytest
from tests.helpers import tampering as tamper
from tests.helpers.ledger import Ledger
from tests.helpers.tampering import cover_up, tampering

from faregate.ledger.core import Deduct
from faregate.ledger.verify import verify

pytestmark = pytest.mark.stack


TINA = "(SELECT account_id FROM subjects WHERE subject = 'user:tina')"

TAMPERINGS: dict[str, tuple[str, str, str]] = {
    "the increment": (
        "UPDATE system_settings SET value = '1.0'",
        "setting",
        "system_settings credit_minimum_increment",
    ),
    "the increment, to nothing that is one": (
        "UPDATE system_settings SET value = 'a tenth'",
        "setting",
        "system_settings credit_minimum_increment",
    ),
    "the increment deleted": (
        "DELETE FROM system_settings",
        "setting",
        "system_settings credit_minimum_increment",
    ),
    **{
        f"the price of a model by {kind}": (
            f"UPDATE price_versions SET book = jsonb_set(book, '{path}', '{value}') WHERE version = 2",
            "price",
            "entries account user:tina sequence ",
        )
        for kind, path, value in (
            ("vendor", "{models,openai/gpt-4o-mini,input_usd_per_1k}", "20"),
            ("credits_per_1k", "{models,openai/gpt-4,credits}", "481"),
            ("tier", "{tiers,professional,rate}", "50.5"),
            ("its margin", "{vendor,margin}", "999"),
            ("the increment", "{increment}", "1.0"),
            ("nothing", "{models}", "{}"),
        )
    },
    "the tier that priced a call": (
        "UPDATE entries SET tier = 'trial' WHERE tier = 'professional'",
        "price",
        "entries account user:tina sequence ",
    ),
    "tokens": (
        "UPDATE entries SET output_tokens = -1 WHERE output_tokens > 0 AND NOT byok",
        "price",
        "entries account user:tina sequence ",
    ),
    "a model that was used without a key of its own": (
        "UPDATE entries SET byok = false WHERE byok AND model IS NOT NULL",
        "price",
        "entries account user:tina sequence ",
    ),
    "a model that is said to be used with a key of its own": (
        "UPDATE entries SET byok = true WHERE model = 'openai/gpt-4'",
        "price",
        "entries account user:tina sequence ",
    ),
    "a price book that is none": (
        "UPDATE price_versions SET book = '{\"models\": 5}' WHERE version = 2",
        "price",
        "price_versions version 2",
    ),
    "a price book that is no object": (
        "UPDATE price_versions SET book = '[]' WHERE version = 2",
        "price",
        "price_versions version 2",
    ),
    "a charge out of all range": (
        f"UPDATE entries SET amount = -9223372036854775808 WHERE account_id = {TINA}",
        "price",
        "entries account user:tina sequence ",
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


async def test_a_cost_that_a_caller_named_is_not_priced_again(ledger: Ledger) -> None:
    await ledger.set_balance("user:alice", 100)
    await ledger.act(lambda i: Deduct(i, "user:alice", None, 123_456, reason="chat"))
    assert (await verify(ledger.store.pool)).findings == []
