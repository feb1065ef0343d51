"""Places where a test can have this very process killed, to prove that it does not matter.

`FAREGATE_FAILPOINT=name` kills the process with a real SIGKILL when it reaches `name`;
`name:stop` sends SIGSTOP instead. Without the variable this costs one dictionary look-up.
"""

from __future__ import annotations

import os
import signal

ENVIRONMENT_NAME = "FAREGATE_FAILPOINT"


def reach(name: str) -> None:
    """Mark that `name` was reached: `before_commit`, `after_commit`, `before_send`, `after_ack`."""
    wanted = os.environ.get(ENVIRONMENT_NAME)
    if wanted is None or wanted.partition(":")[0] != name:
        return
    how = signal.SIGSTOP if wanted.endswith(":stop") else signal.SIGKILL
    os.kill(os.getpid(), how)
