"""How patient the kit is: a factor on each of its waits, for machines that are slow or stand still.

`--faregate-patience=3`, or FAREGATE_TEST_PATIENCE=3 (also without pytest), waits three times as
long before it gives up. What comes in time does not take longer.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

VARIABLE = "FAREGATE_TEST_PATIENCE"
_MOST = 100.0


def parse(text: str) -> float:
    """Read a factor from 1 to 100. Raises ValueError."""
    try:
        factor = float(text)
    except ValueError:
        factor = 0.0
    if not 1.0 <= factor <= _MOST:
        raise ValueError(
            f"patience is how many times longer to wait, from 1 to {_MOST:g}, not {text!r}"
        )
    return factor


@dataclass(slots=True)
class _Told:
    factor: float | None = None


_told = _Told()


def tell(factor: float | None) -> None:
    """Set the factor of this process; None: what the environment says."""
    _told.factor = factor


def patient(seconds: float) -> float:
    """Give how many seconds to wait. Raises ValueError where the environment says nonsense."""
    factor = _told.factor
    if factor is None:
        text = os.environ.get(VARIABLE)
        try:
            factor = parse(text) if text else 1.0
        except ValueError as error:
            raise ValueError(f"{VARIABLE}: {error}") from None
    return seconds * factor
