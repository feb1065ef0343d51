"""The command line: `app` has every command, `run_cli` turns faults into exit codes."""

from __future__ import annotations

from faregate.runtime.cli.base import run_app
from faregate.runtime.cli.credits import credits_app
from faregate.runtime.cli.root import app
from faregate.runtime.cli.running import register as register_running
from faregate.runtime.cli.stack import stack_app

app.add_typer(stack_app, name="stack")
app.add_typer(credits_app, name="credits")
register_running(app)


def run_cli() -> int:
    """Run the command line on sys.argv and give its exit code."""
    return run_app(app)


__all__ = ["app", "run_cli"]
