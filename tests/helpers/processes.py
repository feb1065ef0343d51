"""Product processes as real subprocesses, for tests that signal them.

async with faregate_processes(environment(stack.kafka, url), "entitlements", "relay") as procs:
    procs.kill("relay", signal.SIGKILL)
    assert await procs.wait_exit("relay") == -signal.SIGKILL
    procs.start("relay", env={"FAREGATE_FAILPOINT": "after_ack"})
    await procs.wait_ready("relay")

Nothing is restarted by itself. `deduction#2` is a second process of the kind. When the block ends
with an error, the processes' last log lines are added to it as a note.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from faregate.runtime.supervisor import ProcessFault, Supervisor

__all__ = ["ProcessFault", "Supervisor", "environment", "faregate_processes"]


def environment(kafka: str, database: str, prefix: str = "", **more: str) -> dict[str, str]:
    """Give the environment of processes on these servers; `hold_ttl_s="2"` adds a setting."""
    return {
        "FAREGATE_KAFKA": kafka,
        "FAREGATE_DATABASE": database,
        "FAREGATE_TOPIC_PREFIX": prefix,
        "FAREGATE_PROVISIONING": "manual",
        "FAREGATE_SESSION_TIMEOUT_MS": "6000",
        **{f"FAREGATE_{name.upper()}": value for name, value in more.items()},
    }


@asynccontextmanager
async def faregate_processes(
    env: Mapping[str, str], *names: str, ready: bool = True
) -> AsyncIterator[Supervisor]:
    """Run the named processes for the length of the block; all are at work when it begins.

    `env` is all they see of FAREGATE_* (see `environment`). The topics must exist. With
    `ready=False` the block begins at once.
    """
    with tempfile.TemporaryDirectory(prefix="faregate-procs-") as logs:
        async with Supervisor(env, Path(logs), restart=False) as procs:
            for name in names:
                procs.start(name)
            if ready:
                await procs.wait_ready()
            yield procs
