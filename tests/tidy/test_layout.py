"""One namespace, several parts: what neither the type checker nor the linter notices."""

from pathlib import Path

import pytest
from tests.tidy.repository import ROOT, files, parts, pyproject


def test_faregate_stays_a_namespace_so_that_parts_install_side_by_side() -> None:
    roots = [*ROOT.glob("faregate/__init__.py"), *ROOT.glob("*/faregate/__init__.py")]
    assert roots == [], "faregate is a PEP 420 namespace: it must not have an __init__.py"


@pytest.mark.parametrize("part", parts())
def test_a_part_holds_exactly_the_package_of_its_name(part: str) -> None:
    beside = {path.parts[1] for path in files() if path.parts[0] == part}
    inside = {path.parts[2] for path in files() if path.parts[:2] == (part, "faregate")}
    assert beside <= {"faregate", "README.md"}
    assert inside == {part}
    for needed in ("__init__.py", "py.typed"):
        assert Path(part, "faregate", part, needed) in files()


@pytest.mark.parametrize("part", parts())
def test_a_part_is_known_to_every_tool(part: str) -> None:
    tool = pyproject()["tool"]
    wheel = tool["hatch"]["build"]["targets"]["wheel"]
    assert f"{part}/faregate" in wheel["packages"]
    assert part in wheel["dev-mode-dirs"]
    assert part in tool["hatch"]["build"]["targets"]["sdist"]["only-include"]
    assert part in tool["mypy"]["mypy_path"]
    assert f"faregate.{part}" in tool["mypy"]["packages"]
    assert part in tool["ruff"]["src"]
    assert f"faregate.{part}" in tool["importlinter"]["root_packages"]


def test_no_module_is_a_drawer_for_everything() -> None:
    assert [str(path) for path in files() if path.name in {"utils.py", "util.py"}] == []
