"""docs/events.md names every reason for a denial, with its status and in the order of precedence."""

import re

from tests.tidy.repository import ROOT

from faregate.ledger.core.denials import STATUS


def test_every_reason_is_in_the_table() -> None:
    text = (ROOT / "docs/events.md").read_text().split("## Why a request is denied")[1]
    rows = re.findall(r"^\| (`.+?`) \| (\d+) \|", text, re.MULTILINE)
    told = {name: int(status) for names, status in rows for name in re.findall(r"`(\w+)`", names)}
    assert list(told.items()) == list(STATUS.items())
