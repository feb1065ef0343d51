"""Windows are forgotten, each is remembered once for that, and also after a restart."""

import subprocess
import sys

PROGRAM = """
import asyncio, time
from faregate.streams import Options
from faregate.streams.apps.base import Stream, span

async def main():
    stream = Stream("burn", Options("127.0.0.1:1"), 1)
    table = stream.hopping("minute", 60, 30, lambda: 0.0).table
    now = time.time()
    old, new = ("org:old", span(now - 4000, 60)), ("org:new", span(now, 60))
    for key in (old, old, old, new):
        table.data[key] = [1, 1]
        table._maybe_set_key_ttl(key, 0)
    assert len(table._partition_timestamps[0]) == 2, "each window is remembered once"
    await table._del_old_keys()
    assert list(table.data) == [new], list(table.data)

    table.data[old] = [1, 1]  # as after a restart: it is there, and nobody remembers it
    table._partition_timestamps.clear()
    table._partition_timestamp_keys.clear()
    await table._del_old_keys()
    assert len(table.data) == 2
    await table.on_recovery_completed(set(), set())
    await table._del_old_keys()
    assert list(table.data) == [new], list(table.data)

asyncio.run(main())
"""


def test_windows_are_forgotten_also_those_from_before_a_restart() -> None:
    # In a process of its own: Faust sets up much at its import.
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
