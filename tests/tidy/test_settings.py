"""Every setting can be found in the documents, and the documents promise no other."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.tidy.documents import documents
from tests.tidy.repository import ROOT, modules, text_files, tree

VARIABLE = re.compile(r"\bFAREGATE_[A-Z0-9_]*[A-Z0-9]\b")
PREFIX = "FAREGATE_"
NO_CODE = {"tests", "schemas"}


def base(variable: str) -> str:
    """Return the variable itself for `<variable>_FILE`, which names a file with its value."""
    return variable.removesuffix("_FILE")


def documented() -> set[str]:
    found = {name for path in documents() for name in VARIABLE.findall((ROOT / path).read_text())}
    return {base(name) for name in found}


def spelled_out() -> set[str]:
    """Return the variables that stand in code, scripts and build files."""
    texts = (text for path, text in text_files() if is_code(path))
    return {base(name) for text in texts for name in VARIABLE.findall(text)}


def is_code(path: Path) -> bool:
    return path.suffix != ".md" and path.parts[0] not in NO_CODE


def fields() -> Iterator[str]:
    """Yield the variables that settings classes with the prefix FAREGATE_ make of their fields."""
    for path in modules():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ClassDef) and has_prefix(node):
                yield from (PREFIX + name.upper() for name in field_names(node))


def has_prefix(node: ast.ClassDef) -> bool:
    return any(
        isinstance(word, ast.keyword)
        and word.arg == "env_prefix"
        and isinstance(word.value, ast.Constant)
        and word.value.value == PREFIX
        for word in ast.walk(node)
    )


def field_names(node: ast.ClassDef) -> Iterator[str]:
    for line in node.body:
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
            name = line.target.id
            if not name.startswith("_") and name != "model_config":
                yield name


def test_every_variable_is_documented() -> None:
    missing = {base(name) for name in fields()} | spelled_out()
    assert sorted(missing - documented()) == []


def test_every_documented_variable_exists() -> None:
    known = {base(name) for name in fields()} | spelled_out()
    assert sorted(documented() - known) == []
