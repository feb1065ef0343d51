"""How often somebody is denied, by reason and pipeline, and what is far above their own usual.

A window is a dict: `n`, `reasons` and `pipelines` (names to counts), `ids` (what was counted, as
short hashes, the newest REMEMBERED of them) and `spiked`. A baseline is `[windows, average]`.
"""

from hashlib import blake2b
from typing import Any

REMEMBERED = 256
"""Event ids remembered per account and window: a repeat after more denials than that counts."""
NAMES_KEPT = 50
"""Pipelines listed per window; further ones are counted as `(other)`."""
OTHER = "(other)"
WEIGHT = 0.2
"""How much the newest window weighs in the baseline (an exponentially weighted mean)."""
FORGETS_AFTER = 40
"""After so many windows without denials nothing of the baseline is left."""

Window = dict[str, Any]


def short_id(source: str, event_id: str) -> str:
    """Hash an event's identity to 12 characters."""
    return blake2b(f"{source}\n{event_id}".encode(), digest_size=6).hexdigest()


def counted(old: Window | None, identity: str, reason: str, pipeline: str) -> Window:
    """Count one denial, once: a repeat gives the window as it was (the same object)."""
    window = old or {"n": 0, "reasons": {}, "pipelines": {}, "ids": [], "spiked": False}
    if identity in window["ids"]:
        return window
    pipelines = window["pipelines"]
    name = pipeline if pipeline in pipelines or len(pipelines) < NAMES_KEPT else OTHER
    return {
        "n": window["n"] + 1,
        "reasons": _plus_one(window["reasons"], reason),
        "pipelines": _plus_one(pipelines, name),
        "ids": [*window["ids"], identity][-REMEMBERED:],
        "spiked": window["spiked"],
    }


def _plus_one(counts: dict[str, int], name: str) -> dict[str, int]:
    return {**counts, name: counts.get(name, 0) + 1}


def baseline_after(average: float, denials: int, empty_windows: int) -> float:
    """Give the average after a window with `denials`, and so many empty ones after it."""
    if empty_windows >= FORGETS_AFTER:
        return 0.0
    now = average * (1 - WEIGHT) + denials * WEIGHT
    return round(now * (1 - WEIGHT) ** max(empty_windows, 0), 6)


def spike(denials: int, baseline: float, *, factor: float, least: int) -> float | None:
    """Give how many times the baseline this is, where it is a spike; else None.

    A baseline below one denial per window counts as one: who was never denied before has a spike
    at max(`least`, `factor`) denials.
    """
    times = denials / max(baseline, 1.0)
    return round(times, 2) if denials >= least and times >= factor else None
