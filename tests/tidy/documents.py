"""Reads the commands and the runnable blocks out of the documents.

A fenced block runs in the tests when the line before its fence is `<!-- run -->`, which no
renderer shows:

    <!-- run -->
    ```bash
    faregate balance org:acme --json
    ```

`bash` and `python` blocks can be marked. The blocks of one document run in order.
"""

import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.tidy.repository import ROOT, files

MARK = "<!-- run -->"
SHELLS = {"bash", "sh", "shell", "console"}
RUNNABLE = {"bash": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-c"]}

FENCE = re.compile(r"^\s*(?P<ticks>```+)\s*(?P<language>[\w+-]*)")
CODE_SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
CHOICE = re.compile(r"(?<=\w)\|(?=\w)")
OR = "\u2502"
ASSIGNMENT = re.compile(r"^[A-Za-z_]\w*=")


@dataclass(frozen=True)
class Block:
    """One fenced block: where its first line stands, its language, its text, whether it runs."""

    path: Path
    line: int
    language: str
    text: str
    runs: bool

    def __str__(self) -> str:
        """Name the place in the form that editors and terminals turn into a link."""
        return f"{self.path}:{self.line}"


def documents() -> list[Path]:
    """Return the documents at the root, in docs/, and beside the parts."""
    return [path for path in files() if path.suffix == ".md" and path.parts[0] != "tests"]


@cache
def blocks(path: Path) -> tuple[Block, ...]:
    found: list[Block] = []
    lines = (ROOT / path).read_text().splitlines()
    opening, start, runs = "", 0, False
    for number, line in enumerate(lines, start=1):
        fence = FENCE.match(line)
        if not opening and fence:
            opening, start = fence["ticks"], number
            language = fence["language"]
            runs = number > 1 and lines[number - 2].strip() == MARK
        elif opening and line.strip() == opening:
            text = "\n".join(lines[start : number - 1])
            found.append(Block(path, start + 1, language, text, runs))
            opening = ""
    return tuple(found)


def commands(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield ("file:line", words) for each shell command of a document, code spans included."""
    for block in blocks(path):
        if block.language in SHELLS:
            text = block.text.replace("\\\n", " ")
            for line in text.splitlines():
                if block.language != "console" or line.startswith("$ "):
                    yield from ((str(block), words) for words in simple_commands(line))
    inside = {
        number
        for block in blocks(path)
        for number in range(block.line - 1, block.line + len(block.text.splitlines()) + 1)
    }
    for number, line in enumerate((ROOT / path).read_text().splitlines(), start=1):
        if number not in inside:
            for span in CODE_SPAN.findall(line):
                yield from ((f"{path}:{number}", words) for words in simple_commands(span))


def simple_commands(line: str) -> Iterator[list[str]]:
    """Split one line of shell into its commands, without `$ `, assignments and comments.

    `a|b` without spaces is a choice, not a pipe, and stays one word. A line that is no shell at
    all (a JSON object in a code span) yields nothing.
    """
    line = CHOICE.sub(OR, line.strip().removeprefix("$ "))
    lexer = shlex.shlex(line, posix=True, punctuation_chars="();&|<>")
    lexer.whitespace_split = True
    try:
        tokens = list(lexer)
    except ValueError:
        return
    command: list[str] = []
    for token in [*tokens, ";"]:
        if set(token) <= set("();&|"):
            if command:
                yield command
            command = []
        elif command or not ASSIGNMENT.match(token):
            command.append(token.replace(OR, "|"))
