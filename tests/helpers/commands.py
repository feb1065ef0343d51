"""Running commands of the product as people do: a process, its output, its exit code."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import dataclass, field
from typing import Any

from tests.helpers.forking import faregate
from tests.helpers.processes import environment
from tests.helpers.servers import Stack


@dataclass(frozen=True, slots=True)
class Commands:
    """The command line on a database and a Kafka."""

    stack: Stack
    database: str
    env: dict[str, str] = field(default_factory=dict)

    async def run(self, *arguments: str, code: int = 0) -> str:
        """Run a command and give its stdout; its exit code must be `code`."""
        ours = environment(self.stack.kafka, self.database, "none.") | self.env
        env = {k: v for k, v in os.environ.items() if not k.startswith("FAREGATE_")} | ours
        process = await asyncio.create_subprocess_exec(
            *faregate(),
            *arguments,
            env=env,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        said, complained = await process.communicate()
        assert process.returncode == code, (
            f"{arguments}: {process.returncode}\n{said.decode()}{complained.decode()}"
        )
        return said.decode()

    async def json(self, *arguments: str, code: int = 0) -> Any:
        """Run a command with --json and give its one JSON value."""
        return json.loads(await self.run(*arguments, "--json", code=code))
