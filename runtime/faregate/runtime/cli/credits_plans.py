"""`faregate credits tier`, `quota`, `alerts`, `unlock`: what is set about an account."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from faregate.events.amounts import parse_credits, to_credits
from faregate.ledger import reading
from faregate.ledger.acts import set_alerts, set_quota, set_tier, unlock
from faregate.runtime.cli.acting import KeyOption, me, new_key, user_argument
from faregate.runtime.cli.base import (
    BadUsage,
    JsonOption,
    amount_argument,
    counted,
    examples,
    ledger,
    moment,
    out,
    run_async,
    show,
    subject_argument,
)
from faregate.runtime.cli.credits import Subject
from faregate.runtime.cli.credits_refund import app
from faregate.runtime.wording import plain

Value = dict[str, Any]


@app.command(
    epilog=examples(
        "faregate credits tier user:ada",
        "faregate credits tier user:ada professional",
        "faregate credits tier user:ada starter --now",
    )
)
def tier(
    subject: Subject,
    name: Annotated[str | None, typer.Argument(metavar="[TIER]", help="The new tier.")] = None,
    now: Annotated[bool, typer.Option("--now", help="A lower tier at once, too.")] = False,
    key: KeyOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Show an account's tier, or change it.

    A higher one begins now with a new period, all of its credits and calls; a lower one with the
    next period.
    """
    if now and name is None:
        raise BadUsage("--now goes with the TIER that is to begin")
    run_async(_tier(subject_argument(subject), name, new_key(key), now=now, as_json=as_json))


async def _tier(subject: str, name: str | None, key: str, *, now: bool, as_json: bool) -> None:
    result = "unchanged"
    async with ledger(makes=[subject] if name is not None else []) as (store, _):
        if name is not None:
            done = await set_tier(store, subject, name, actor=me(), key=key, now=now)
            result = done.result
        found = await reading.account(store, subject)
    value = {n: found[n] for n in ("account", "tier", "next_tier", "period_start", "period_end")}
    value["result"] = result
    show(value, as_json=as_json, render=lambda: _render_tier(value))


def _render_tier(v: Value) -> None:
    until = f", until {moment(v['period_end'])}" if v["period_end"] else ""
    then = f"; then {v['next_tier']}" if v["next_tier"] else ""
    out.print(f"{v['account']} is on tier {v['tier']}{until}{then}.", markup=False)


@app.command(
    epilog=examples(
        "faregate credits quota user:ada",
        "faregate credits quota user:ada 1000",
        "faregate credits quota user:ada --as-tier",
    )
)
def quota(
    subject: Subject,
    calls: Annotated[
        int | None, typer.Argument(metavar="[CALLS]", min=0, help="Calls allowed in a period.")
    ] = None,
    as_tier: Annotated[bool, typer.Option("--as-tier", help="As many as the tier says.")] = False,
    key: KeyOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Show how many calls are used and when the count begins anew, or allow another number."""
    if as_tier and calls is not None:
        raise BadUsage("say either a number of CALLS or --as-tier")
    change = as_tier or calls is not None
    run_async(
        _quota(subject_argument(subject), calls, new_key(key), change=change, as_json=as_json)
    )


async def _quota(subject: str, calls: int | None, key: str, *, change: bool, as_json: bool) -> None:
    async with ledger(makes=[subject] if change else []) as (store, _):
        if change:
            await set_quota(store, subject, calls, actor=me(), key=key)
        value = {"account": subject, **await reading.quota(store, subject)}
    show(value, as_json=as_json, render=lambda: _render_quota(value))


def _render_quota(v: Value) -> None:
    used = counted(v["used"], "call")
    of = "no quota" if v["limit"] is None else f"{v['limit']:,} allowed, {v['remaining']:,} left"
    anew = f"; counted anew from {moment(v['period_end'])}" if v["period_end"] else ""
    out.print(f"{v['account']} (tier {v['tier']}): {used} used, {of}{anew}.", markup=False)


@app.command(
    epilog=examples(
        "faregate credits alerts org:acme",
        "faregate credits alerts org:acme --low 500 --percent 10",
        "faregate credits alerts org:acme --as-settings",
    )
)
def alerts(
    subject: Subject,
    low: Annotated[
        str | None, typer.Option(metavar="CREDITS", help="At so many credits; 0: never.")
    ] = None,
    percent: Annotated[
        int | None,
        typer.Option(min=0, max=100, help="At so much of what the last grant brought it to."),
    ] = None,
    as_settings: Annotated[
        bool, typer.Option("--as-settings", help="Both as the settings say.")
    ] = False,
    key: KeyOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Show when an account's low balance is announced (CreditsLowV1), or set it.

    The higher of both thresholds counts. It is announced once, and again after credits came in.
    """
    if as_settings and (low is not None or percent is not None):
        raise BadUsage("--as-settings goes without --low and --percent")
    micro = None if low is None else amount_argument(low, allow_zero=True)
    wanted = (micro, percent) if micro is not None or percent is not None else None
    run_async(
        _alerts(subject_argument(subject), wanted, new_key(key), reset=as_settings, as_json=as_json)
    )


async def _alerts(
    subject: str,
    wanted: tuple[int | None, int | None] | None,
    key: str,
    *,
    reset: bool,
    as_json: bool,
) -> None:
    async with ledger(makes=[subject] if wanted or reset else []) as (store, _):
        if wanted or reset:
            low, percent = wanted or (None, None)
            if not reset:  # what is not said stays as it is
                before = await reading.alerts(store, subject)
                if low is None and before["low"] is not None:
                    low = parse_credits(before["low"], allow_zero=True)
                percent = before["percent"] if percent is None else percent
            await set_alerts(store, subject, low=low, percent=percent, actor=me(), key=key)
        value = await reading.alerts(store, subject)
    show(value, as_json=as_json, render=lambda: _render_alerts(value))


def _render_alerts(v: Value) -> None:
    parts = [
        f"{plain(v['low'])} credits" if v["low"] is not None else "",
        f"{v['percent']} %" if v["percent"] is not None else "",
    ]
    said = " and ".join(filter(None, parts))
    origin = f"set: {said}" if said else "as the settings say"
    at = f"at {plain(v['threshold'])} credits" if v["threshold"] else "never"
    raised = f"; announced since the last grant: {', '.join(v['raised'])}" if v["raised"] else ""
    out.print(f"{v['account']}: a low balance is announced {at} ({origin}){raised}.", markup=False)


@app.command("unlock", epilog=examples("faregate credits unlock user:ada first_pipeline"))
def unlock_(
    subject: Subject,
    milestone: Annotated[str, typer.Argument(metavar="MILESTONE", help="As the settings call it.")],
    key: KeyOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Release the part of a user's welcome credits that waits for a milestone, once."""
    user = user_argument(subject)
    run_async(_unlock(user, milestone, new_key(key), as_json=as_json))


async def _unlock(user: str, milestone: str, key: str, *, as_json: bool) -> None:
    async with ledger(makes=[user]) as (store, _):
        done = await unlock(store, user, milestone, actor=me(), key=key)
        account = await reading.account(store, user)
    released = to_credits(done.body.get("amount") or 0)
    names = ("account", "balance", "held", "available", "debt")
    value = {"result": done.result, "released": released, **{n: account[n] for n in names}}
    show(value, as_json=as_json, render=lambda: _render_unlocked(value))


def _render_unlocked(v: Value) -> None:
    what = f"{counted(v['released'], 'credit')} released" if v["released"] else "nothing to release"
    out.print(f"{v['account']}: {what}; {plain(v['available'])} available.", markup=False)


__all__ = ["app"]
