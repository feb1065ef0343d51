"""Token buckets in memory: how often somebody may try."""

from __future__ import annotations

from collections import OrderedDict
from math import ceil
from time import monotonic

_KEPT = 50_000


class Buckets:
    """One bucket per name: `per_minute` tries, refilled evenly."""

    def __init__(self, per_minute: float) -> None:
        self._size = per_minute
        self._per_s = per_minute / 60
        self._level: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait_s(self, name: str) -> int:
        """Give the seconds until the next try is allowed; 0: now."""
        level = self._now(name)
        return 0 if level >= 1 else ceil((1 - level) / self._per_s)

    def take(self, name: str) -> None:
        """Count a try."""
        self._level[name] = (self._now(name) - 1, monotonic())
        self._level.move_to_end(name)
        if len(self._level) > _KEPT:
            self._level.popitem(last=False)

    def _now(self, name: str) -> float:
        level, at = self._level.get(name, (self._size, 0.0))
        return min(self._size, level + (monotonic() - at) * self._per_s)
