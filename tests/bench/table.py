"""The tables that a run prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from tests.bench.figures import TARGETS, Figure


def render(
    machine: Mapping[str, Any],
    versions: Mapping[str, str],
    results: Mapping[str, Figure],
    rounds: Mapping[str, Sequence[Figure]],
    baseline: Mapping[str, Figure],
) -> RenderableType:
    """Show where it ran, each figure with its spread, and what it is to reach."""
    about = Table(show_header=False, title="Where", title_justify="left")
    for name, value in (*machine.items(), *versions.items()):
        about.add_row(name, str(value))
    found = Table(title="Figures (medians of the rounds)", title_justify="left")
    for heading in ("", "value", "unit", "lowest", "highest", "n", "s", "target", "baseline"):
        left = heading in {"", "unit"}
        found.add_column(heading, justify="left" if left else "right", no_wrap=True)
    targets = {t.name: t for t in TARGETS}
    for name, figure in results.items():
        values = [f.value for f in rounds.get(name, ())]
        target, before = targets.get(name), baseline.get(name)
        found.add_row(
            name,
            number(figure.value),
            figure.unit,
            number(min(values)) if values else "",
            number(max(values)) if values else "",
            f"{figure.n:,}",
            f"{figure.seconds:.1f}",
            f"{'>=' if target.better == 'higher' else '<='} {target.bound:g}" if target else "",
            number(before.value) if before else "",
        )
    return Group(about, found)


def number(value: float) -> str:
    """Write a figure with as many digits as it is worth."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
