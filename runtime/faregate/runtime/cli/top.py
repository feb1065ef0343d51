"""`faregate top`: balances, burn, runway, denials and lag, each second."""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress
from time import monotonic
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from faregate.runtime import servers
from faregate.runtime.cli.base import (
    JsonOption,
    examples,
    ledger,
    moment,
    new_app,
    out,
    run_async,
    show,
    table,
)
from faregate.runtime.top import Top

app = new_app("Top.")

_EVERY_S = 1.0
_UNKNOWN = "?"


@app.command(epilog=examples("faregate top", "faregate top --json"))
def top(
    once: Annotated[bool, typer.Option("--once", help="One picture, then end.")] = False,
    accounts: Annotated[
        int, typer.Option(min=1, max=200, help="So many accounts: those that moved last.")
    ] = 20,
    *,
    as_json: JsonOption = False,
) -> None:
    """Watch balances, burn, runway, denials and lag; drawn anew each second until Ctrl-C.

    Burn, runway and denials come from `faregate streams`; while that is not running they are
    unknown (`?`). With --json, or where there is no terminal, there is one picture.
    """
    run_async(_top(accounts, once=once or as_json or not out.is_terminal, as_json=as_json))


async def _top(accounts: int, *, once: bool, as_json: bool) -> None:
    async with ledger("top") as (store, settings):
        cluster = settings.cluster(servers.kafka(settings))
        async with Top(store, cluster, accounts) as looking:
            seen = await looking.look()
            if once:
                show(seen, as_json=as_json, render=lambda: out.print(picture(seen)))
                return
            await _live(looking, seen)


async def _live(looking: Top, seen: dict[str, Any]) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    with Live(picture(seen), console=out, auto_refresh=False, screen=True) as live:
        at = monotonic()
        while not stopping.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), at + _EVERY_S - monotonic())
            at = monotonic()
            live.update(picture(await looking.look()), refresh=True)


def picture(seen: dict[str, Any]) -> Group:
    """Draw what `Top.look` gave."""
    title = Text(f"faregate top  {moment(seen['at'])}", style="bold")
    alerts = _alerts(seen["alerts"]) if seen["alerts"] else ""
    return Group(title, "", _accounts(seen["accounts"]), "", _lag(seen), "", alerts)


def _accounts(accounts: list[dict[str, Any]]) -> Table:
    numbers = ("available", "held", "debt", "per minute", "per hour", "runway", "denials")
    made = table(("account", *numbers, "last entry"), right=numbers)
    for account in accounts:
        burn = account["burn"]
        made.add_row(
            account["account"],
            *(f"{account[name]:,}" for name in ("available", "held", "debt")),
            *((_UNKNOWN,) * 2 if burn is None else _rates(burn)),
            _UNKNOWN if burn is None else span(burn["runway_s"]),
            _UNKNOWN if account["denials"] is None else str(account["denials"]),
            moment(account["at"]),
        )
    return made


def _rates(burn: dict[str, Any]) -> tuple[str, str]:
    return f"{burn['per_minute']:,.1f}", f"{burn['per_hour']:,.1f}"


def span(seconds: float | None) -> str:
    """Write a runway for people: `3 h 20 min`; `-` where nothing is being used."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _lag(seen: dict[str, Any]) -> Table:
    made = table(("reads", "lag", "state"), right=("lag",))
    for name, lag in seen["consumers"].items():
        made.add_row(name, f"{lag:,}", "")
    for name, stream in seen["streams"].items():
        lag = "" if stream["lag"] is None else f"{stream['lag']:,}"
        made.add_row(f"streams {name}", lag, "" if stream["running"] else "not running")
    return made


def _alerts(alerts: list[dict[str, Any]]) -> Table:
    made = table(("at", "signal", "account", "what"))
    for alert in reversed(alerts):
        made.add_row(
            moment(alert["at"]), alert["type"], str(alert["data"]["account"]), _what(alert)
        )
    return made


def _what(alert: dict[str, Any]) -> str:
    data = alert["data"]
    if alert["type"] == "RunwayLowV1":
        return f"empty in {span(data['runway_s'])} at {data['per_hour']:,} an hour"
    if alert["type"] == "DenialSpikeV1":
        return f"{data['denials']} denials, {data['factor']:g} times the usual"
    return f"{data['problem']} at entry {data['sequence']}"
