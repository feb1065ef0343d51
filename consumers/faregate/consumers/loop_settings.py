"""How much the loop takes at a time, and how long it waits."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """Batch sizes in records; times in seconds.

    A batch holds its accounts' locks, so it is small (rule 3) unless much is waiting, and has waited
    for `late_s`: then it takes a part of that, up to `batch_under_lag`.
    """

    batch: int = 50
    batch_under_lag: int = 2000
    slow_batch_s: float = 0.25
    late_s: float = 3.0
    poll_s: float = 0.2
    retry_s: float = 0.5
    hold_s: float = 5.0
    commit_every_s: float = 1.0
