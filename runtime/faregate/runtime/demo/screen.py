"""What the demo shows: one heading per step, what went in, what came back, what it came to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

_INDENT = 4
_TOPIC_WIDTH = 20
_TYPE_WIDTH = 25


@dataclass(frozen=True, slots=True)
class Bar:
    """A progress bar that counts up to its total."""

    progress: Progress

    def show(self, done: int) -> None:
        """Move to `done`."""
        for task in self.progress.task_ids:
            self.progress.update(task, completed=done)


class Screen:
    """Prints the story for people; `quiet` prints nothing (--json)."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.console = Console(highlight=False, quiet=quiet)

    @contextmanager
    def busy(self, text: str) -> Iterator[Callable[[str], None]]:
        """Show that something takes its time; the function given says what is being done.

        On a terminal nothing of it stays; elsewhere each thing is a line.
        """
        if not self.console.is_terminal:
            self.set_up(text)
            yield self.set_up
            return
        with self.console.status(Text(text), spinner="dots") as status:
            yield lambda line: status.update(Text(line))

    def title(self, text: str, below: str) -> None:
        """Begin the story."""
        self.console.print()
        self.console.print(Text.assemble(("  Faregate  ", "bold reverse cyan"), f"  {text}"))
        self.console.print(Text(f"  {below}", style="dim"))

    def set_up(self, text: str) -> None:
        """Say that a part of the set-up is done."""
        self._line(" ", "dim", Text(text, style="dim"))

    def step(self, number: int, heading: str) -> None:
        """Begin a step."""
        self.console.print()
        self.console.print(Text.assemble((f" {number} ", "bold reverse"), (f" {heading}", "bold")))

    def sent(self, topic: str, type_: str, what: str) -> None:
        """Show an event that was published."""
        self._event("→", "cyan", topic, type_, what)

    def came(self, topic: str, type_: str, what: str) -> None:
        """Show an event that came back from Kafka."""
        self._event("←", "green", topic, type_, what)

    def command(self, text: str) -> None:
        """Show what could have been typed."""
        self._line("$", "cyan", Text(text))

    def bang(self, text: str) -> None:
        """Show violence."""
        self._line("✗", "bold red", Text(text, style="red"))

    def again(self, text: str) -> None:
        """Show that something was started again."""
        self._line("↻", "bold cyan", Text(text))

    def note(self, text: str) -> None:
        """Show something by the way."""
        self._line(" ", "dim", Text(text, style="italic"))

    def checked(self, text: str) -> None:
        """Show what was checked and holds."""
        self._line("✓", "bold green", Text(text))

    def failed(self, heading: str, message: str) -> None:
        """Show which step does not hold."""
        self.console.print()
        self.console.print(Text(f"  FAILED in the step: {heading}", style="bold red"))
        self.console.print(Padding(Text(message), (0, 0, 0, 2)))

    def side_by_side(self, *columns: Sequence[Table]) -> None:
        """Show columns of tables; below each other where the terminal is too narrow."""
        groups = [Group(*(Padding(one, (0, 0, 1, 0)) for one in column)) for column in columns]
        grid = Table.grid(padding=(0, 6, 0, 0))
        grid.add_row(*groups)
        narrow = self.console.measure(grid).maximum + _INDENT + 3 > self.console.width
        for part in groups if narrow else [grid]:
            self.console.print(Padding(part, (0, 0, 0, _INDENT + 3)))

    def print(self, what: RenderableType = "") -> None:
        """Show anything else; long lines are left to the terminal, so that they can be copied."""
        self.console.print(what, soft_wrap=True)

    @contextmanager
    def bar(self, text: str, total: int) -> Iterator[Bar]:
        """Show a bar for as long as the block takes."""
        columns = (
            TextColumn(f"    [green]←[/]  {text}"),
            BarColumn(32, complete_style="green", finished_style="green"),
            MofNCompleteColumn(),
        )
        disable = self.console.quiet or not self.console.is_terminal
        with Progress(*columns, console=self.console, disable=disable, transient=True) as progress:
            progress.add_task(text, total=total)
            yield Bar(progress)

    def _event(self, arrow: str, style: str, topic: str, type_: str, what: str) -> None:
        grid = Table.grid()
        grid.add_column(width=_INDENT + 3)
        grid.add_column(width=_TOPIC_WIDTH)
        grid.add_column(width=_TYPE_WIDTH)
        grid.add_column(ratio=1)
        grid.add_row(
            Text(f"{' ' * _INDENT}{arrow}", style=f"bold {style}"),
            Text(topic, style=style),
            Text(type_, style="dim"),
            Text(what),
        )
        self.console.print(grid)

    def _line(self, mark: str, style: str, text: Text) -> None:
        grid = Table.grid()
        grid.add_column(width=_INDENT + 3)
        grid.add_column(ratio=1)
        grid.add_row(Text(f"{' ' * _INDENT}{mark}", style=style), text)
        self.console.print(grid)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Make a small table; columns whose name starts with `#` hold numbers."""
    made = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        header_style="dim",
    )
    for name in columns:
        made.add_column(name.removeprefix("#"), justify="right" if name.startswith("#") else "left")
    for row in rows:
        made.add_row(*row)
    return made
