"""What the tidy tests look at: the files of the repository and the parts that are shipped."""

import ast
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


@cache
def files() -> tuple[Path, ...]:
    """Every file that is tracked, or would be if it were added now; relative to ROOT."""
    command = ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z", "--cached", "--others"]
    command.append("--exclude-standard")
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    paths = {Path(name) for name in listed.split("\0") if name}
    return tuple(sorted(path for path in paths if (ROOT / path).is_file()))


@cache
def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def parts() -> list[str]:
    """The top-level folders that hold one part of the `faregate` namespace each."""
    return sorted({path.parts[0] for path in files() if path.parts[1:2] == ("faregate",)})


def modules() -> list[Path]:
    """Every Python file that is shipped."""
    return [path for path in files() if path.parts[0] in parts() and path.suffix == ".py"]


def tree(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text(), filename=str(path))


def text_files() -> Iterator[tuple[Path, str]]:
    """Every file that is text, with what it says; the lock file's format carries public hosts."""
    for path in files():
        if path == Path("uv.lock"):
            continue
        try:
            yield path, (ROOT / path).read_text()
        except UnicodeDecodeError:
            continue
