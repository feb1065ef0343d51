"""`faregate byok`: the master key of users' own keys."""

from __future__ import annotations

from dataclasses import asdict

import typer

from faregate.gateway.byok.rotation import Rotation, rotate
from faregate.gateway.byok.sealing import MasterKey, new_master_key
from faregate.runtime.cli.base import (
    BadUsage,
    JsonOption,
    counted,
    examples,
    ledger,
    new_app,
    out,
    run_async,
    show,
)
from faregate.runtime.cli.exits import NO
from faregate.runtime.llm_serving import read_master_key
from faregate.runtime.settings import Settings, load

app = new_app(
    "The master key that users' own keys are sealed with.",
    "faregate byok new-master-key > new.key",
    "faregate byok rotate",
)


@app.command(
    "new-master-key", epilog=examples("faregate byok new-master-key > /run/secrets/master.key")
)
def make(*, as_json: JsonOption = False) -> None:
    """Make a new master key, for FAREGATE_MASTER_KEY; it is kept nowhere."""
    key = new_master_key()
    show({"master_key": key}, as_json=as_json, render=lambda: print(key))  # noqa: T201


@app.command("rotate", epilog=examples("faregate byok rotate", "faregate byok rotate --json"))
def run(*, as_json: JsonOption = False) -> None:
    """Put all users' keys from FAREGATE_OLD_MASTER_KEY under FAREGATE_MASTER_KEY.

    Gateways go on working: give both keys to them first. It can be stopped at any time and goes on
    where it was. Exit code 1 while keys are under neither of the two, or do not open.
    """
    settings = load()
    old, new = _keys(settings)
    done = run_async_result(old, new)
    show(asdict(done), as_json=as_json, render=lambda: _render(done))
    if done.remaining:
        raise typer.Exit(NO)


def _keys(settings: Settings) -> tuple[MasterKey, MasterKey]:
    if settings.master_key is None or settings.old_master_key is None:
        raise BadUsage(
            "both keys are needed: FAREGATE_OLD_MASTER_KEY, which is in use, and "
            "FAREGATE_MASTER_KEY, the new one (or …_FILE)"
        )
    old = read_master_key("old_master_key", settings.old_master_key)
    new = read_master_key("master_key", settings.master_key)
    if old.id == new.id:
        raise BadUsage("both keys are the same: make a new one with: faregate byok new-master-key")
    return old, new


def run_async_result(old: MasterKey, new: MasterKey) -> Rotation:
    """Rotate in the database in force."""
    found: list[Rotation] = []

    async def work() -> None:
        async with ledger("byok") as (store, _):
            found.append(await rotate(store.pool, old, new))

    run_async(work())
    return found[0]


def _render(done: Rotation) -> None:
    out.print(f"Rotated {counted(done.rotated, 'key')}; {done.done} are under the new master key.")
    if done.remaining:
        out.print(
            f"[yellow]{done.remaining} are not[/]: {done.damaged} do not open, the others are under "
            "another key. Gateways that still seal with the old key make more: restart them with "
            "the new one, then run this again."
        )
    else:
        out.print("FAREGATE_OLD_MASTER_KEY can be taken out now.")
