"""The help: every command has examples, and each is a command line that is understood."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

import pytest

from faregate.runtime.cli.root import PLACES, load


def every_command() -> Iterator[tuple[str, Any]]:
    """Give each command and each group with the words that name it."""
    for name in PLACES:
        command = load(name)
        yield name, command
        for child, below in getattr(command, "commands", {}).items():
            yield f"{name} {child}", below


COMMANDS = dict(every_command())


def lines(path: str) -> list[str]:
    """Give the examples of a command, without what is a comment or for the shell."""
    first, *rest = (COMMANDS[path].epilog or "-").splitlines()
    assert first == "Examples:", f"{path} has no examples"
    return [line.partition("#")[0].partition(" > ")[0].strip() for line in rest]


@pytest.mark.parametrize("path", COMMANDS)
def test_every_example_in_the_help_is_understood(path: str) -> None:
    for line in lines(path):
        program, *words = shlex.split(line)
        depth = 2 if PLACES[words[0]].group else 1
        command = COMMANDS[" ".join(words[:depth])]
        context = command.make_context(" ".join(words[:depth]), words[depth:])  # BadUsage if not
        assert program == "faregate"
        assert context.command is command
    assert any(line.startswith(f"faregate {path}") for line in lines(path))
