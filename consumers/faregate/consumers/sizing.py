"""How many records a batch may have: few, since it holds its accounts' locks (rule 3), or many.

Many are cheaper for each of them, and pay only where much is waiting: then nobody's answer comes
sooner from a short wait. A batch that is full does not say so: at a steady pace the next one may be
as large as the last one was slow. So a batch takes a part of what is known to wait, and no more
than two usual ones until that is late as well: a burst is over soon, and nobody has to wait for it.
"""

from __future__ import annotations

from math import inf

from faregate.consumers.loop_settings import LoopSettings

_PART = 16
_MUCH = 4
_CALM = 2
_MANY = 20_000
"""So many are a backlog whatever their times say: those are of the producers' clocks."""


class BatchSize:
    """The most records of the next batch, as the last ones went."""

    def __init__(self, settings: LoopSettings) -> None:
        self._settings = settings
        self._bearable = settings.batch_under_lag
        self.most = settings.batch

    @property
    def much_waits(self) -> bool:
        """Tell whether throughput counts for more than how long a batch holds its accounts.

        Batches of several hands at once hold theirs while the process works for the other ones.
        """
        return self.most > _MUCH * self._settings.batch

    def took(self, seconds: float, waiting: int, behind_s: float = inf) -> None:
        """Learn how long the last batch took, how many records wait after it, and how old it was.

        `behind_s` is the age of its records: what nobody can know of them counts as late.
        """
        settings = self._settings
        if seconds > settings.slow_batch_s:
            self._bearable = max(min(self._bearable, settings.batch), self.most // 2)
        else:
            self._bearable = min(self._bearable * 2, settings.batch_under_lag)
        part = waiting // _PART
        if behind_s < settings.late_s and waiting < _MANY:
            part = min(part, _CALM * settings.batch)
        self.most = min(self._bearable, max(settings.batch, part))

    def beside(self, in_hand: int) -> int:
        """Give how many more may be read beside those in hand: with them they may be one batch."""
        settings = self._settings
        left = 2 * settings.batch_under_lag - settings.batch - in_hand
        return min(self.most, max(settings.batch, left))

    def failed(self) -> None:
        """Try less: it may have been too much for the time-outs."""
        self._bearable = self.most = max(1, self.most // 2)
