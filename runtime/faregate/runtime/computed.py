"""How the price of a run is computed, phase by phase, in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from faregate.events.amounts import format_credits, to_credits
from faregate.ledger.core import Book, PhasePrice
from faregate.runtime.wording import counted, in_credits


def priced_phases(book: Book | None, phases: Sequence[str], items: int) -> list[dict[str, Any]]:
    """Tell for each phase what a run over `items` takes and how that is computed."""
    return [priced_phase(name, book.phases.get(name) if book else None, items) for name in phases]


def priced_phase(name: str, price: PhasePrice | None, items: int) -> dict[str, Any]:
    """Tell what one phase takes over `items`; credits are None where it has no price."""
    if price is None:
        missing = dict.fromkeys(("per", "units", "credits", "required_credits"))
        return {"phase": name, **missing, "how": f"{name}: has no price"}
    units = price.units_for(items)
    total = price.micro * units
    over = {
        "item": counted(units, "item"),
        "pair": f"{counted(items, 'item')} = {counted(units, 'pair')}",
        "flat": "once",
    }[price.per]
    return {
        "phase": name,
        "per": price.per,
        "units": units,
        "credits": to_credits(price.micro),
        "required_credits": to_credits(total),
        "how": f"{name}: {over} x {format_credits(price.micro)} = {in_credits(total)}",
    }
