"""Who and what an org was charged for in a window of time.

A window is a dict: `seq` (the last entry counted), `total`, `n`, and for each of DIMENSIONS a dict
of names to `[micro-credits, events]`. Repeats are left out by the sequence, as in `burn`. At most
KEPT names are kept per dimension: the smallest one goes into OTHER, and the total stays exact.
"""

from collections.abc import Mapping
from typing import Any

DIMENSIONS = ("users", "models", "phases")
KEPT = 200
OTHER = "(other)"
SIZES: dict[str, int] = {"hour": 3600, "day": 86_400}

Window = dict[str, Any]
Names = dict[str, list[int]]


def counted(
    old: Window | None, sequence: int, micro: int, names: Mapping[str, str | None]
) -> Window:
    """Count one charge, once: a repeat gives the window as it was (the same object).

    `names` has the user, model and phase, where there is one. What is refunded later is not taken
    out: the refund may be of another day.
    """
    window = old or {"seq": 0, "total": 0, "n": 0, **{d: {} for d in DIMENSIONS}}
    if sequence <= window["seq"]:
        return window
    shares = {
        d: _with(window[d], name, micro) if (name := names.get(d)) else window[d]
        for d in DIMENSIONS
    }
    return {
        "seq": sequence,
        "total": window["total"] + micro,
        "n": window["n"] + 1,
        **shares,
    }


def _with(shares: Names, name: str, micro: int) -> Names:
    had, times = shares.get(name, (0, 0))
    found = {**shares, name: [had + micro, times + 1]}
    if len(found) - (OTHER in found) > KEPT:
        least = min((n for n in found if n != OTHER), key=lambda n: (found[n][0], n))
        gone, kept = found.pop(least), found.get(OTHER, [0, 0])
        found[OTHER] = [kept[0] + gone[0], kept[1] + gone[1]]
    return found


def top(shares: Names, most: int) -> tuple[list[tuple[str, int, int]], int]:
    """List the largest shares (name, micro-credits, events); give the micro-credits of the rest."""
    named = sorted(
        ((name, micro, n) for name, (micro, n) in shares.items() if name != OTHER),
        key=lambda share: (-share[1], share[0]),
    )
    rest = sum(micro for _, micro, _ in named[most:]) + shares.get(OTHER, [0, 0])[0]
    return named[:most], rest


def start_of(at: float, window: str) -> int:
    """Give when the hour or day (UTC) of a moment began, in seconds since 1970."""
    size = SIZES[window]
    return int(at // size * size)
