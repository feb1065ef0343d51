"""The command line: `app` has every command, `run_cli` turns faults into exit codes."""

from __future__ import annotations

from collections.abc import Sequence

from faregate.runtime.cli.exits import run_app
from faregate.runtime.cli.root import app


def run_cli(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, on sys.argv by default, and give its exit code."""
    return run_app(app, arguments)


__all__ = ["app", "run_cli"]
