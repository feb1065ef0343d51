"""`faregate settings`."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

from faregate.runtime import servers
from faregate.runtime.cli.base import JsonOption, err, new_app, out, show, table
from faregate.runtime.cli.stack import without_password
from faregate.runtime.servers import ServerMissing
from faregate.runtime.settings import CONFIG_ENVIRONMENT, Settings, load
from faregate.runtime.stack import StackError, default_home

app = new_app("Settings.")

PREFIX = "FAREGATE_"
_NOT_SETTINGS = {CONFIG_ENVIRONMENT, "FAREGATE_FAILPOINT"}
_OF_TESTS = "FAREGATE_TEST_"


@app.command()
def settings(*, as_json: JsonOption = False) -> None:
    """Show the settings in force, secrets masked, and where each comes from.

    The environment (FAREGATE_*, secrets also as FAREGATE_*_FILE) goes before the TOML file named
    by FAREGATE_CONFIG, and that before the defaults.
    """
    origins = _origins()
    rows = _rows(load(), origins)
    for name in unknown_variables():
        err.print(f"warning: {name} is no setting, so it does nothing", style="yellow")
    show(rows, as_json=as_json, render=lambda: _render(rows))


def unknown_variables() -> list[str]:
    """Name what looks like a setting in the environment and is none (a typing mistake)."""
    known = {PREFIX + name.upper() for name in Settings.model_fields} | _NOT_SETTINGS
    names = (name.upper() for name in os.environ if name.upper().startswith(PREFIX))
    unknown = (n for n in names if n not in known and n.removesuffix("_FILE") not in known)
    return sorted(n for n in unknown if not n.startswith(_OF_TESTS))


def _origins() -> dict[str, str]:
    """Say for each setting that is not a default where it was found. Call it before `load`."""
    found: dict[str, str] = {}
    file = os.environ.get(CONFIG_ENVIRONMENT)
    if file and Path(file).is_file():
        try:
            found.update(dict.fromkeys(tomllib.loads(Path(file).read_text()), f"file {file}"))
        except (ValueError, OSError):  # `load` says what is wrong with it
            found = {}
    names = {name.upper() for name in os.environ}
    for field in Settings.model_fields:
        variable = PREFIX + field.upper()
        if f"{variable}_FILE" in names:
            found[field] = f"environment {variable}_FILE"
        if variable in names:
            found[field] = f"environment {variable}"
    return found


def _rows(loaded: Settings, origins: dict[str, str]) -> list[dict[str, Any]]:
    values = loaded.masked()
    rows = [
        {
            "name": name,
            "value": values[name],
            "source": origins.get(name, "default"),
            "description": field.description,
        }
        for name, field in Settings.model_fields.items()
    ]
    for row in rows:
        if row["name"] == "home" and row["value"] is None:
            row["value"] = str(default_home())
        elif row["name"] in {"kafka", "database"} and row["value"] is None:
            row["value"], row["source"] = _embedded(loaded, str(row["name"]))
    return rows


def _embedded(loaded: Settings, name: str) -> tuple[str | None, str]:
    """Give the address of the embedded server that takes the place of one not named."""
    try:
        address = getattr(servers.find(loaded), name)
    except (ServerMissing, StackError):
        return None, "default"
    return without_password(address), "embedded stack"


def _render(rows: list[dict[str, Any]]) -> None:
    shown = table(("setting", "value", "source"))
    for row in rows:
        changed = row["source"] != "default"
        value = "-" if row["value"] in {None, ""} else str(row["value"])
        shown.add_row(row["name"], value, row["source"], style="bold" if changed else None)
    out.print(shown)
    out.print("\nSet one with FAREGATE_<SETTING>, or in the TOML file named by FAREGATE_CONFIG.")
