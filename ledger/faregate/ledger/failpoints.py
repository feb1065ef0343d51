"""Places where a test can have this very process killed, to prove that it does not matter.

`FAREGATE_FAILPOINT=name` kills the process with a real SIGKILL when it reaches `name`;
`name:stop` sends SIGSTOP instead. It is read once: whoever wants it starts the process with it.
"""

from __future__ import annotations

import os
import signal

ENVIRONMENT_NAME = "FAREGATE_FAILPOINT"
_WANTED, _, _HOW = os.environ.get(ENVIRONMENT_NAME, "").partition(":")


def reach(name: str) -> None:
    """Mark that `name` was reached: `before_commit`, `after_commit`, `before_send`, `after_ack`."""
    if name == _WANTED:
        os.kill(os.getpid(), signal.SIGSTOP if _HOW == "stop" else signal.SIGKILL)
