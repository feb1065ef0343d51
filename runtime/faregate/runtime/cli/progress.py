"""Progress bars on stderr, for people who wait at a terminal; nothing anywhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from faregate.runtime.cli.base import err

Report = Callable[[int, int], None]
"""Takes what is done and how much there is in all (0: not known yet)."""


def bars(*, quiet: bool = False) -> Progress:
    """Make a display for several bars; with `quiet` (as for --json) it never shows."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=err,
        transient=True,
        disable=quiet or not err.is_terminal,
    )


@contextmanager
def bar(what: str, *, quiet: bool = False) -> Iterator[Report]:
    """Show one bar for the length of the block, and give the function that moves it."""
    with bars(quiet=quiet) as shown:
        task = shown.add_task(what, total=None)

        def report(done: int, total: int) -> None:
            shown.update(task, completed=done, total=total or None)

        yield report
