"""`faregate doctor`."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict

import typer

from faregate.runtime import doctor as examination
from faregate.runtime import servers
from faregate.runtime.cli.base import (
    MISSING,
    NO,
    JsonOption,
    counted,
    examples,
    new_app,
    out,
    run_async,
    show,
    table,
)
from faregate.runtime.cli.settings import unknown_variables
from faregate.runtime.doctor import Check
from faregate.runtime.servers import ServerMissing, Servers
from faregate.runtime.settings import Settings, load
from faregate.runtime.stack import StackError

app = new_app("Doctor.")

_STYLES = {"OK": "green", "WARN": "yellow", "FAIL": "bold red"}


@app.command(epilog=examples("faregate doctor", "faregate doctor --json"))
def doctor(*, as_json: JsonOption = False) -> None:
    """Say what is missing or wrong, and the fix. It looks, and changes nothing.

    Exit 1 when something fails, 3 when a server is missing.
    """
    run_async(_doctor(as_json=as_json))


async def _doctor(*, as_json: bool) -> None:
    settings = load()
    checks = [*examination.check_machine(settings), *_variables(), *await _servers(settings)]
    missing = any(c.missing for c in checks)
    failed = any(c.state == "FAIL" for c in checks)
    value = {"ok": not failed, "checks": [asdict(c) for c in checks]}
    show(value, as_json=as_json, render=lambda: _render(checks))
    if failed:
        raise typer.Exit(MISSING if missing else NO)


def _variables() -> list[Check]:
    unknown = unknown_variables()
    if not unknown:
        return [Check("settings", "OK", "every FAREGATE_ variable is a setting")]
    fix = "correct the name (faregate settings lists them all) or unset it"
    return [Check("settings", "WARN", f"no such setting: {', '.join(unknown)}", fix)]


async def _servers(settings: Settings) -> list[Check]:
    try:
        found = servers.find(settings)
    except (ServerMissing, StackError) as error:
        return await _what_is_there(settings, error)
    return await _look(settings, found)


async def _what_is_there(settings: Settings, error: ServerMissing | StackError) -> list[Check]:
    """Look at the one server that is there, when the other is missing."""
    checks = [
        Check("servers", "FAIL", getattr(error, "message", str(error)), error.fix, missing=True)
    ]
    with suppress(ServerMissing, StackError):
        checks += await examination.check_database(settings, servers.database(settings))
    with suppress(ServerMissing, StackError):
        cluster = settings.cluster(servers.kafka(settings))
        checks += await examination.check_kafka(settings, cluster, None)
    return checks


async def _look(settings: Settings, found: Servers) -> list[Check]:
    database = await examination.check_database(settings, found.database)
    usable = all(
        c.state != "FAIL" for c in database if c.name in {"database", "migrations", "role"}
    )
    kafka = await examination.check_kafka(
        settings, settings.cluster(found.kafka), found.database if usable else None
    )
    return [*database, *kafka]


def _render(checks: list[Check]) -> None:
    shown = table(("", "what", "found"))
    for check in checks:
        state = f"[{_STYLES[check.state]}]{check.state}[/]"
        shown.add_row(state, check.name, check.detail.replace("[", "\\["))
        if check.fix:
            shown.add_row("", "", f"[bold]fix:[/] {check.fix}".replace("[faregate", "\\[faregate"))
    out.print(shown)
    worst = [c.state for c in checks]
    if "FAIL" in worst:
        out.print(f"\n{counted(worst.count('FAIL'), 'thing')} to mend before it works.")
    elif "WARN" in worst:
        out.print(f"\nIt works; {counted(worst.count('WARN'), 'thing')} to look at.")
    else:
        out.print("\nNothing is in the way.")
