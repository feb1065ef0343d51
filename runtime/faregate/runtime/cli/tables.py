"""Tables for people: no word of theirs is broken, however narrow the terminal is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

_GAP, _INDENT = 2, 4
_LEAST = 24
"""What a column that folds needs at least to be read, where it has as much to say."""
_ENDLESS = 10_000


class _Plain(Table):
    """A table of which one column at most folds.

    If that is the last one and there is too little room for it, it goes under its rows. What is
    wider than the terminal all the same is never cut off.
    """

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Lay the table out for the room that there is."""
        endless = options.update(width=_ENDLESS)
        for column in self.columns:
            texts = (column.header, *column.cells)
            width = max(console.measure(text, options=endless).maximum for text in texts)
            column.min_width = width if column.no_wrap else min(width, _LEAST)
        needed = sum(c.min_width or 0 for c in self.columns) + _GAP * (len(self.columns) - 1)
        if needed > options.max_width and not self.columns[-1].no_wrap:
            yield from self._with_last_below(console, options, endless)
        else:
            wide = options.update(width=max(needed, options.max_width))
            yield from super().__rich_console__(console, wide)

    def _with_last_below(
        self, console: Console, options: ConsoleOptions, endless: ConsoleOptions
    ) -> RenderResult:
        *columns, last = self.columns
        upper = table((str(c.header) for c in columns), right=_right(self), folds=None)
        for cells in zip(*(c.cells for c in columns), strict=True):
            upper.add_row(*cells)
        lower = [Text(), *(_text(console, cell) for cell in last.cells)]
        lines = console.render_lines(upper, endless, pad=False)
        for line, text in zip(lines, lower, strict=True):
            yield from line
            yield Segment.line()
            if text:
                for part in text.wrap(console, options.max_width - _INDENT, overflow="fold"):
                    yield Text(" " * _INDENT) + part


def _right(shown: Table) -> set[str]:
    return {str(c.header) for c in shown.columns if c.justify == "right"}


def _text(console: Console, cell: object) -> Text:
    return cell if isinstance(cell, Text) else console.render_str(str(cell))


def table(
    columns: Iterable[str], *, right: Iterable[str] = (), folds: str | None = "the last"
) -> Table:
    """Make a plain table: `right` columns are set to the right, and only `folds` is ever wrapped.

    By default that is the last column, unless it is one of those to the right. Cells are of one line.
    """
    names, numeric = list(columns), set(right)
    folding = names[-1] if folds == "the last" else folds
    made = _Plain(box=None, pad_edge=False, padding=(0, _GAP, 0, 0))
    for name in names:
        justify: Literal["left", "right"] = "right" if name in numeric else "left"
        keep = name != folding or name in numeric
        made.add_column(name, justify=justify, no_wrap=keep, overflow="fold")
    return made
