"""The grants of one account, moved by its entries: which credits are left of which. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from faregate.ledger.chain import COLUMNS

_SEQUENCE, _AMOUNT, _HELD = 2, 4, 5
_KIND, _GRANTS, _PRIORITY, _EXPIRES_AT = (
    COLUMNS.index(name) for name in ("kind", "grants", "priority", "expires_at")
)
_GRANTED = frozenset({"purchase", "bonus", "adjustment", "expiry"})


class Lots:
    """Follows the grants of one account from entry to entry."""

    __slots__ = ("_known", "_lost", "granted")

    def __init__(self) -> None:
        self._known: dict[int, list[Any]] = {}
        self._lost: set[int] = set()
        """Grants that were named as wrong once: what follows from that is not named again."""
        self.granted = 0

    def move(self, row: Sequence[Any]) -> str | None:
        """Apply an entry (in COLUMNS order); say what is wrong about its grants, if something is."""
        amount, held, deltas = row[_AMOUNT], row[_HELD], row[_GRANTS]
        if row[_KIND] in _GRANTED:
            self.granted += amount
        if row[_PRIORITY] is not None:
            self._known[row[_SEQUENCE]] = [0, 0, row[_PRIORITY], row[_EXPIRES_AT]]
        if deltas is None:
            return _UNNAMED if amount or held else None
        # One grant is by far the most common: spelled out, for millions of entries.
        if len(deltas) == 3:  # noqa: PLR2004 - number, change of remaining, change of held
            number, moved, pinned = deltas
            if moved == amount and pinned == held and number in self._known:
                lot = self._known[number]
                lot[0] = left = lot[0] + amount
                lot[1] = part = lot[1] + held
                return None if 0 <= part <= left else self._overdrawn(number)
        return self._apply(deltas, amount, held)

    def _apply(self, deltas: Sequence[int], amount: int, held: int) -> str | None:
        wrong = None
        if len(deltas) % 3 or not all(isinstance(n, int) for n in deltas):
            return "its grants are no triples of numbers"
        if sum(deltas[1::3]) != amount or sum(deltas[2::3]) != held:
            wrong = "its grants do not sum up to its amount and held_delta"
        for n in range(0, len(deltas), 3):
            number = deltas[n]
            lot = self._known.get(number)
            if lot is None:
                wrong = self._once(number, f"grant {number} was made by no entry") or wrong
                continue
            lot[0] += deltas[n + 1]
            lot[1] += deltas[n + 2]
            if not 0 <= lot[1] <= lot[0]:
                wrong = self._overdrawn(number) or wrong
        return wrong

    def _overdrawn(self, number: int) -> str | None:
        left, held = self._known[number][:2]
        return self._once(number, f"grant {number} has {left} left and {held} held after it")

    def _once(self, number: int, message: str) -> str | None:
        if number in self._lost:
            return None
        self._lost.add(number)
        return message

    def left(self) -> Mapping[int, Sequence[Any]]:
        """Give grants with something left: remaining, held, priority, expires_at."""
        return {number: lot for number, lot in self._known.items() if lot[0] or lot[1]}


_UNNAMED = "it names no grants for what it moves"
