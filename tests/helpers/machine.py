"""A machine of somebody who has just installed the product, and what is left on it afterwards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

from faregate.runtime.stack.state import cache_dir

MARK = "MACHINE_TEST"


@dataclass(frozen=True)
class Machine:
    """A user with an empty home and an empty working directory; downloads are there already."""

    root: Path
    mark: str

    @property
    def env(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.root / "home"),
            "TMPDIR": str(self.root / "tmp"),
            "XDG_CACHE_HOME": str(cache_dir().parent),
            MARK: self.mark,
        }

    def start(self, *arguments: str, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "faregate.runtime", *arguments],
            cwd=self.root / "work",
            env=self.env | env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, **env: str) -> tuple[int, Any]:
        """Run a command with --json; give its exit code and what it printed."""
        process = self.start(*arguments, "--json", **env)
        out, err = process.communicate(timeout=200)
        assert out.count("\n") == 1, f"{out}\n{err}"
        return process.returncode, json.loads(out)

    def processes(self) -> list[str]:
        """List the processes that descend from our commands, or work in our directories."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                command = (process / "cmdline").read_bytes()
                environ = (process / "environ").read_bytes()
            except OSError:
                continue
            if f"{MARK}={self.mark}".encode() in environ or str(self.root).encode() in command:
                found.append(f"{process.name} {command.decode()}".replace("\0", " "))
        return found

    def files(self) -> list[Path]:
        return [path for path in self.root.rglob("*") if path.parent != self.root]

    def assert_clean(self) -> None:
        assert self.processes() == []
        assert self.files() == []


@contextmanager
def new_machine() -> Iterator[Machine]:
    """Make one."""
    with TemporaryDirectory(prefix="fg-") as name:
        root = Path(name)
        root.chmod(0o755)  # the database may run as another account
        for directory in ("home", "tmp", "work"):
            (root / directory).mkdir()
        yield Machine(root, uuid4().hex)
