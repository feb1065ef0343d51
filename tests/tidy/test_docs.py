"""The documents name only what exists, and their marked blocks run."""

import contextlib
import importlib
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import pytest
from tests.tidy.documents import (
    MARK,
    RUNNABLE,
    SHELLS,
    Block,
    blocks,
    commands,
    documents,
    simple_commands,
)
from tests.tidy.repository import ROOT

BLOCK_LIMIT_S = 240
LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)[^)]*\)")

each_document = pytest.mark.parametrize("path", documents(), ids=str)


class Stack(Protocol):
    """What the `stack` fixture tells: where the running Kafka and PostgreSQL are."""

    kafka: str
    database: str


def targets() -> set[str]:
    return set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def command_line() -> Any:
    """Return the command line as a tree of click commands."""
    typer = importlib.import_module("typer")
    return typer.main.get_command(importlib.import_module("faregate.runtime.cli").app)


def unknown_command(words: list[str], group: Any) -> str | None:
    """Return the first word that names no command; `a|b` names two, UPPER CASE stands for any."""
    for word in words:
        names = getattr(group, "commands", None)
        if names is None:
            return None
        if word.startswith("-") or word in {"…", "..."} or word.isupper():
            continue
        for name in word.split("|"):
            if name not in names:
                return name
        group = names[word.split("|")[0]]
    return None


@each_document
def test_every_make_target_that_a_document_names_exists(path: Path) -> None:
    named = {
        (place, word)
        for place, words in commands(path)
        if words[0] == "make"
        for word in words[1:]
        if re.fullmatch(r"[a-z][\w-]*", word)
    }
    assert [f"{place}: make {word}" for place, word in named if word not in targets()] == []


@each_document
def test_every_command_that_a_document_names_exists(path: Path) -> None:
    named = [
        (place, words[1:])
        for place, words in commands(path)
        if Path(words[0]).name == "faregate" and words[1:]
    ]
    if not named:
        return
    group = command_line()
    wrong = [
        f"{place}: faregate {' '.join(words)}: no {unknown!r}"
        for place, words in named
        if (unknown := unknown_command(words, group))
    ]
    assert wrong == []


@each_document
def test_every_link_into_the_repository_leads_somewhere(path: Path) -> None:
    links = LINK.findall((ROOT / path).read_text())
    assert [link for link in links if not (ROOT / path.parent / link).exists()] == []


@each_document
def test_only_what_can_run_is_marked_to_run(path: Path) -> None:
    marks = (ROOT / path).read_text().splitlines().count(MARK)
    runnable = [block for block in blocks(path) if block.runs]
    assert [str(block) for block in runnable if block.language not in RUNNABLE] == []
    assert len(runnable) == marks, f"{path}: {MARK} must stand right above a fence"


@pytest.mark.stack
@pytest.mark.timeout(0)
@pytest.mark.parametrize(
    "path", [path for path in documents() if any(block.runs for block in blocks(path))], ids=str
)
def test_the_marked_blocks_of_a_document_run(path: Path, stack: Stack, tmp_path: Path) -> None:
    environment = os.environ | {
        "FAREGATE_KAFKA": stack.kafka,
        "FAREGATE_DATABASE": stack.database,
        "FAREGATE_HOME": str(tmp_path / "home"),
        "PATH": readers_path(),
    }
    for number, block in enumerate(blocks(path)):
        if block.runs:
            run_block(block, environment, typed_before(blocks(path)[:number]))


def readers_path() -> str:
    """Give PATH without the environment that runs the tests: a document says how it gets there."""
    ours = {ROOT / ".venv" / "bin"}
    if sys.prefix != sys.base_prefix:
        ours.add(Path(sys.prefix) / "bin")
    places = os.environ["PATH"].split(os.pathsep)
    return os.pathsep.join(place for place in places if Path(place) not in ours)


def typed_before(earlier: Sequence[Block]) -> str:
    """Give what a reader's shell keeps of earlier blocks, whether they run here or not: PATH."""
    lines = [line for b in earlier if b.language in SHELLS for line in b.text.splitlines()]
    return "".join(f"{line}\n" for line in lines if line.startswith("export PATH="))


def run_block(block: Block, environment: dict[str, str], before: str = "") -> None:
    """Run a block in a session of its own; what it leaves running goes with it.

    `before`: the lines of shell that its reader has typed by then.
    """
    text = before + block.text if block.language in SHELLS else block.text
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            [*RUNNABLE[block.language], text],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(timeout=BLOCK_LIMIT_S)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        said.seek(0)
        assert code == 0, f"{block} exited with {code}\n{said.read()}"


def test_the_reader_of_documents_knows_shell() -> None:
    line = "$ A=1 faregate stack up|down --json | cat && make demo ARGS=--keep  # then look"
    assert list(simple_commands(line)) == [
        ["faregate", "stack", "up|down", "--json"],
        ["cat"],
        ["make", "demo", "ARGS=--keep"],
    ]
    assert list(simple_commands("it's not shell")) == []
