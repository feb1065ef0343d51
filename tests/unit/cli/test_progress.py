from __future__ import annotations

import io

import pytest
from rich.console import Console

from faregate.runtime.cli import progress


def shown(monkeypatch: pytest.MonkeyPatch, *, terminal: bool, quiet: bool) -> str:
    said = io.StringIO()
    console = Console(file=said, force_terminal=terminal, width=80)
    monkeypatch.setattr(progress, "err", console)
    with progress.bar("entries", quiet=quiet) as report:
        report(250, 1000)
        report(1000, 1000)
    return said.getvalue()


def test_somebody_at_a_terminal_sees_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(monkeypatch, terminal=True, quiet=False)
    assert "entries" in text
    assert "1000/1000" in text


@pytest.mark.parametrize(("terminal", "quiet"), [(False, False), (True, True), (False, True)])
def test_a_pipe_and_json_see_nothing(
    monkeypatch: pytest.MonkeyPatch, *, terminal: bool, quiet: bool
) -> None:
    assert shown(monkeypatch, terminal=terminal, quiet=quiet).strip() == ""
