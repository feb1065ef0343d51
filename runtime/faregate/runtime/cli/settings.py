"""`faregate settings`."""

from __future__ import annotations

import os
from typing import Any

from faregate.runtime import servers
from faregate.runtime.cli.base import JsonOption, err, examples, new_app, out, show, table
from faregate.runtime.servers import ServerMissing
from faregate.runtime.settings import (
    CONFIG_ENVIRONMENT,
    PREFIX,
    Settings,
    load,
    origins,
    without_password,
)
from faregate.runtime.stack import StackError, default_home
from faregate.runtime.wording import meant

app = new_app("Settings.")

_NOT_SETTINGS = {CONFIG_ENVIRONMENT, "FAREGATE_FAILPOINT"}
_OF_TESTS = "FAREGATE_TEST_"


@app.command(epilog=examples("faregate settings", "faregate settings --json"))
def settings(*, as_json: JsonOption = False) -> None:
    """Show the settings in force, secrets masked, and where each comes from.

    The environment (FAREGATE_*, secrets also as FAREGATE_*_FILE) goes before the TOML file named
    by FAREGATE_CONFIG, and that before the defaults.
    """
    found = origins()  # before `load` reads secrets from files into the environment
    rows = _rows(load(), found)
    for name in unknown_variables():
        hint = meant(name, (PREFIX + field.upper() for field in Settings.model_fields))
        err.print(f"warning: {name} is no setting, so it does nothing{hint}", style="yellow")
    show(rows, as_json=as_json, render=lambda: _render(rows))


def unknown_variables() -> list[str]:
    """Name what looks like a setting in the environment and is none (a typing mistake)."""
    known = {PREFIX + name.upper() for name in Settings.model_fields} | _NOT_SETTINGS
    names = (name.upper() for name in os.environ if name.upper().startswith(PREFIX))
    unknown = (n for n in names if n not in known and n.removesuffix("_FILE") not in known)
    return sorted(n for n in unknown if not n.startswith(_OF_TESTS))


def _rows(loaded: Settings, found: dict[str, str]) -> list[dict[str, Any]]:
    values = loaded.masked()
    rows = [
        {
            "name": name,
            "value": values[name],
            "source": found.get(name, "default"),
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
        address = servers.kafka(loaded) if name == "kafka" else servers.database(loaded)
    except (ServerMissing, StackError):
        return None, "default"
    return without_password(address), "embedded stack"


def _render(rows: list[dict[str, Any]]) -> None:
    shown = table(("setting", "value", "source"), folds="value")
    for row in rows:
        changed = row["source"] != "default"
        value = "-" if row["value"] in (None, "", {}) else str(row["value"])
        shown.add_row(row["name"], value, row["source"], style="bold" if changed else None)
    out.print(shown)
    out.print("\nSet one with FAREGATE_<SETTING>, or in the TOML file named by FAREGATE_CONFIG.")
