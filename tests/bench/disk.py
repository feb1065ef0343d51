"""What the machine's disk does meanwhile: a commit can be no faster than that.

A shared disk stands still now and then, for up to half a second, for reasons of its neighbours. A
figure of a latency that was measured in such seconds says little about what was measured.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread
from time import perf_counter

from tests.bench.figures import Figure, percentile

_BLOCK = 8192
_BLOCKS = 512
_EVERY_S = 0.1


@contextmanager
def watched(name: str) -> Iterator[dict[str, Figure]]:
    """Write 8 KiB and wait for the disk, 10 times a second; afterwards there are the figures.

    It is the disk of temporary files, as the embedded servers' is.
    """
    found: dict[str, Figure] = {}
    times_ms: list[float] = []
    stopping = Event()
    with tempfile.NamedTemporaryFile() as file:
        file.write(bytes(_BLOCK * _BLOCKS))
        file.flush()
        os.fsync(file.fileno())
        thread = Thread(target=_probe, args=(file.fileno(), times_ms, stopping), daemon=True)
        begin = perf_counter()
        thread.start()
        try:
            yield found
        finally:
            stopping.set()
            thread.join()
        n, seconds = len(times_ms), perf_counter() - begin
    for percent in (50, 99):
        value = percentile(times_ms, percent)
        found[f"{name}_disk_p{percent}_ms"] = Figure(value, "ms", n, seconds)


def _probe(file: int, times_ms: list[float], stopping: Event) -> None:
    """Overwrite blocks that are there: the file system has nothing else to write with them."""
    while True:
        begin = perf_counter()
        os.pwrite(file, os.urandom(_BLOCK), len(times_ms) % _BLOCKS * _BLOCK)
        os.fdatasync(file)
        times_ms.append((perf_counter() - begin) * 1000)
        if stopping.wait(_EVERY_S):
            return
