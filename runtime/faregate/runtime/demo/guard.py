"""Brings the demo's stack down when the demo itself cannot: it was killed.

The servers of the stack outlive whoever started them. So a small process waits at the end of a
pipe; the pipe closes when the demo ends, however it does, and then nothing must be left.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from faregate.runtime import stack

_PATIENCE_S = 60.0


@contextmanager
def guarded(home: Path) -> Iterator[None]:
    """Have the stack in `home` brought down if this process dies within the block."""
    guard = subprocess.Popen(  # noqa: S603 - our own command line, no shell
        [sys.executable, "-m", __name__, str(home)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,  # Ctrl-C is not for it
    )
    try:
        yield
    finally:
        # Whoever leaves the block orderly has the stack brought down by it, too: that is quicker
        # than what comes after the block, and doing it twice does no harm.
        guard.communicate(timeout=_PATIENCE_S)


def main() -> None:
    """Wait for the end of the pipe, then clean up."""
    sys.stdin.buffer.read()
    home = Path(sys.argv[1])
    stack.down(home)
    shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()
