"""How many records a batch may have: few, since it holds its accounts' locks (rule 3), or many.

Many are cheaper for each of them, and pay only where there is a backlog: then nobody's answer
comes sooner from a short wait. A full batch alone is no backlog: at a steady pace the next one may
be as large as the last one was slow. So it doubles only when batches have been full for a while, and
halves as soon as one is not half full.
"""

from __future__ import annotations

from faregate.consumers.loop_settings import LoopSettings


class BatchSize:
    """The most records of the next batch, as the last ones went."""

    def __init__(self, settings: LoopSettings) -> None:
        self._settings = settings
        self._full_since: float | None = None
        self.most = settings.batch

    def took(self, count: int, began: float, ended: float) -> None:
        """Learn from a batch of `count` records; the times are in seconds of one clock."""
        settings = self._settings
        if count < self.most:
            self._full_since = None
        elif self._full_since is None:
            self._full_since = began
        less = max(settings.batch, self.most // 2)
        if ended - began > settings.slow_batch_s:
            self.most = min(self.most, less)
        elif 2 * count < self.most:
            self.most = less
        elif self._full_since is not None and self._has_backlog(ended - self._full_since):
            self.most = min(settings.batch_under_lag, self.most * 2)
            self._full_since = ended

    def _has_backlog(self, full_s: float) -> bool:
        return full_s >= self._settings.backlog_s or self.most < self._settings.batch

    def idle(self) -> None:
        """Learn that there was nothing to take."""
        self._full_since = None

    def failed(self) -> None:
        """Try less: it may have been too much for the time-outs."""
        self._full_since = None
        self.most = max(1, self.most // 2)
