"""Style as a test: the rules for shipped code that no linter setting expresses."""

import ast
from pathlib import Path

import pytest
from tests.tidy.repository import ROOT, modules, tree

MODULE_LINES = 400  # fewer than this
FUNCTION_LINES = 60  # at most this

each_module = pytest.mark.parametrize("path", modules(), ids=str)


@each_module
def test_a_module_can_be_read_in_one_sitting(path: Path) -> None:
    lines = len((ROOT / path).read_text().splitlines())
    assert lines < MODULE_LINES, f"{path} has {lines} lines; split it by what changes together"


@each_module
def test_a_function_fits_on_a_screen(path: Path) -> None:
    long = [
        f"{path}:{node.lineno} {node.name} has {lines} lines"
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or node.lineno) - node.lineno + 1) > FUNCTION_LINES
    ]
    assert long == []


@each_module
def test_nothing_is_guarded_by_an_assert_that_python_o_removes(path: Path) -> None:
    asserts = [f"{path}:{n.lineno}" for n in ast.walk(tree(path)) if isinstance(n, ast.Assert)]
    assert asserts == [], "raise an exception that the loop knows instead"


@each_module
def test_a_module_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(tree(path)), f"{path} has no module docstring"
