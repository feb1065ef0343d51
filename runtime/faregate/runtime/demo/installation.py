"""How the story reaches the deduction process: as our own child, or by commands for elsewhere."""

from __future__ import annotations

import asyncio
import shlex
import signal
from dataclasses import dataclass
from typing import Protocol

from faregate.runtime.demo.client import Unexpected
from faregate.runtime.supervisor import Supervisor

KILLED = "deduction"
_COMMAND_S = 60.0


class Installation(Protocol):
    """What the story needs from wherever the deduction process runs."""

    async def kill(self) -> str | None:
        """SIGKILL it and say what was done; None where that is not possible."""

    async def restart(self) -> str:
        """Start it again and say what was done."""


@dataclass(slots=True)
class Children:
    """The processes are our own children."""

    supervisor: Supervisor

    async def kill(self) -> str | None:
        """Send a real SIGKILL to a real process; it stays away until `restart`."""
        pid = self.supervisor.pid(KILLED)
        self.supervisor.hold_back(KILLED)
        self.supervisor.kill(KILLED, signal.SIGKILL)
        code = await self.supervisor.wait_exit(KILLED)
        if code != -signal.SIGKILL:
            raise Unexpected(f"{KILLED} (pid {pid}) ended with {code}, not by SIGKILL")
        return f"kill -9 {pid}"

    async def restart(self) -> str:
        """Start it; whether it works is for the story to see."""
        return f"{KILLED} starts again as pid {self.supervisor.start(KILLED)}"


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """The processes run elsewhere; shell-like command lines kill and restart deduction."""

    kill_command: str | None
    restart_command: str | None

    async def kill(self) -> str | None:
        """Run the kill command, if there is one."""
        if self.kill_command is None:
            return None
        await _run(self.kill_command)
        return self.kill_command

    async def restart(self) -> str:
        """Run the restart command; without one, somebody's restart policy does it."""
        if self.restart_command is None:
            return f"{KILLED} is restarted by whoever supervises it"
        await _run(self.restart_command)
        return self.restart_command


async def _run(command: str) -> None:
    """Run a command without a shell. Raises Unexpected with its output when it fails."""
    words = shlex.split(command)
    try:
        process = await asyncio.create_subprocess_exec(
            *words,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
    except OSError as error:
        raise Unexpected(f"the command {command!r} cannot be run: {error}") from error
    try:
        output, _ = await asyncio.wait_for(process.communicate(), _COMMAND_S)
    except BaseException:
        if process.returncode is None:
            process.kill()
        raise
    if process.returncode:
        text = output.decode(errors="replace").strip()
        raise Unexpected(f"the command {command!r} ended with {process.returncode}: {text}")
