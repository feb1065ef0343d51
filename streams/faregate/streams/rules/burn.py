"""How fast an account is charged, over hopping windows, and how long that can go on.

A window is `[charged, sequence]`: micro-credits, and the last entry counted. An account's entries
come in the order of their sequence, so an entry that is not beyond it was counted before: that
is how repeats are left out, with one number per window.
"""

from collections.abc import Sequence
from dataclasses import dataclass

MINUTE, HOUR, DAY = 60, 3600, 86_400
STEPS: dict[int, int] = {MINUTE: 30, HOUR: 1200, DAY: 43_200}
"""The sizes of the windows and how far they hop, in seconds: each charge is written to seven."""

RECOVERED = 1.25
"""An alert is armed again once the runway is so many times the threshold."""

Window = Sequence[int]
"""Charged micro-credits and the last sequence; empty for none."""


def counted(old: Window, new: tuple[int, int]) -> list[int]:
    """Add a charge (micro-credits, its sequence) to a window, once."""
    charged, upto = old or (0, 0)
    micro, sequence = new
    return [charged, upto] if sequence <= upto else [charged + micro, sequence]


def fullest(now: float, size: int) -> float:
    """Give the start of the window that `now` is in and that began first."""
    step = STEPS[size]
    return (now // step) * step - size + step


@dataclass(frozen=True, slots=True)
class Rates:
    """Micro-credits per minute, hour and day."""

    minute: int
    hour: int
    day: int

    def shape(self) -> tuple[bool, bool, bool]:
        """Say which of them are more than nothing."""
        return self.minute > 0, self.hour > 0, self.day > 0


def rate(window: Window, now: float, size: int) -> int:
    """Scale what was charged in the fullest window to its size, by how much of it has passed."""
    charged = window[0] if window else 0
    return round(charged * size / max(now - fullest(now, size), 1.0))


def runway_s(available: int, hour: int) -> int | None:
    """Give for how many seconds `available` lasts at a rate per hour; None at no rate."""
    if hour <= 0:
        return None
    return max(available, 0) * HOUR // hour


def alert(runway: int | None, threshold_s: float, *, alerted: bool) -> tuple[bool, bool]:
    """Tell whether to say now that the runway is low, and whether it counts as said."""
    if runway is not None and runway < threshold_s:
        return not alerted, True
    recovered = runway is None or runway >= threshold_s * RECOVERED
    return False, alerted and not recovered
