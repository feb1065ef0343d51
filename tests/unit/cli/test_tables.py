"""Tables in a narrow terminal: every word stays whole, and nothing is cut off."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from faregate.runtime.cli import audit, credits_refund, explain
from faregate.runtime.cli import credits as history
from faregate.runtime.cli.tables import table

NARROW = 80
AT = "2026-11-23T08:27:19+00:00"
ENTRY = {
    "account": "user:cust1",
    "sequence": 12,
    "at": AT,
    "kind": "adjustment",
    "amount": -1_000,
    "held_delta": 0,
    "debt_delta": 0,
    "balance": 97,
    "usage_id": "call-18",
    "reason": "double_charge",
}
GRANT = {
    "number": 1,
    "kind": "purchase",
    "amount": 100,
    "remaining": 99,
    "held": 0,
    "priority": 100,
    "expires_at": AT,
    "state": "expired",
    "source": "purchase",
    "allocated_by": "ops",
    "notes": "invoice 17",
}
ACT = {
    "id": 7,
    "at": AT,
    "actor": "ops",
    "action": "set_balance",
    "result": "below_held",
    "account": "user:cust1",
    "metadata": {"target": 4, "charge_id": 1234567890123},
}


def narrow() -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, soft_wrap=True, highlight=False, width=NARROW), file


def alone(shown: Table) -> list[str]:
    console, file = narrow()
    console.print(shown)
    return file.getvalue().splitlines()


@pytest.mark.parametrize(
    ("module", "render", "words"),
    [
        (
            history,
            lambda: history._render_history("user:cust1", [ENTRY], None),
            "adjustment -1,000 2026-11-23 08:27:19Z call-18 double_charge balance",
        ),
        (
            explain,
            lambda: explain._render(
                {"story": [], "pipeline": None, "usages": [{"entries": [ENTRY]}]}
            ),
            "account user:cust1 adjustment call-18 double_charge balance",
        ),
        (
            credits_refund,
            lambda: credits_refund._render_grants("user:cust1", [GRANT]),
            "purchase state from expires expired priority ops, invoice 17",
        ),
        (
            audit,
            lambda: audit._render([ACT]),
            "account user:cust1 result below_held set_balance target charge_id 1234567890123",
        ),
    ],
)
def test_words_stay_whole_at_eighty_columns(
    monkeypatch: pytest.MonkeyPatch, module: Any, render: Any, words: str
) -> None:
    console, file = narrow()
    monkeypatch.setattr(module, "out", console)
    render()
    lines = file.getvalue().splitlines()
    assert set(words.split()) <= set(" ".join(lines).split())
    assert max(len(line.rstrip()) for line in lines) <= NARROW


def test_what_finds_room_stays_in_its_row() -> None:
    shown = table(("account", "amount", "what"), right=("amount",))
    shown.add_row("user:ada", "1", "a word " * 20)
    lines = alone(shown)
    assert lines[1].startswith("user:ada       1  a word a word")
    assert lines[2].startswith(" " * 18 + "a word")


def test_what_finds_no_room_goes_under_its_row() -> None:
    shown = table(("account", "amount", "what"), right=("amount",))
    shown.add_row("user:" + "a" * 60, "1", "[bold]a word[/] " * 20)
    shown.add_row("user:ada", "2", "")
    lines = alone(shown)
    assert lines[1].split() == ["user:" + "a" * 60, "1"]
    assert lines[2].startswith("    a word a word")
    assert lines[-1].split() == ["user:ada", "2"]


def test_nothing_is_cut_off_where_even_that_is_too_wide() -> None:
    shown = table(("account", "amount"), right=("amount",))
    shown.add_row("user:" + "a" * 100, "1,234,567")
    lines = alone(shown)
    assert lines[1].split() == ["user:" + "a" * 100, "1,234,567"]
