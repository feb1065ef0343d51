"""The statements of the `.sql` files by name."""

from __future__ import annotations

import re
from importlib.resources import files

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


def statements(file: str) -> dict[str, str]:
    """Read a file of statements, each after a line `-- name: <name>`."""
    parts = _NAME.split(files(__package__).joinpath(file).read_text())[1:]
    return {name: sql.strip() for name, sql in zip(parts[::2], parts[1::2], strict=True)}


SQL = statements("queries.sql")
"""Every statement of the store."""
