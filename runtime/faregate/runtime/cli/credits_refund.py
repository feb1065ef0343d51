"""`faregate credits refund`, `revoke`, `grants`: taking back a charge or a grant, and what there is."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from faregate.events.amounts import to_credits
from faregate.ledger import reading
from faregate.ledger.acts import Done, refund, revoke
from faregate.runtime.cli.acting import KeyOption, me, new_key
from faregate.runtime.cli.base import (
    BadUsage,
    JsonOption,
    counted,
    examples,
    ledger,
    moment,
    out,
    over,
    run_async,
    show,
    subject_argument,
    table,
    time_argument,
)
from faregate.runtime.cli.credits import Subject, app
from faregate.runtime.wording import plain


@app.command(
    "refund",
    epilog=examples(
        "faregate trigger UsageRecordedV1 --set usage_id=call-18 --set org_id=acme",
        "faregate credits refund org:acme --usage call-18 --reason double_charge",
    ),
)
def refund_(
    subject: Subject,
    usage: Annotated[
        str | None, typer.Option(metavar="USAGE_ID", help="The usage, as your events call it.")
    ] = None,
    entry: Annotated[
        int | None,
        typer.Option(
            metavar="ID", min=1, max=2**63 - 1, help="An entry: the id in credits history --json."
        ),
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="The program that sent it, if several used that id.")
    ] = None,
    reason: Annotated[
        str | None, typer.Option(help="A code such as double_charge; it stays for ever.")
    ] = None,
    key: KeyOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Give a charge back, whole and once, to the grants that it came from.

    SUBJECT is who paid, or whose usage it was. What came from a grant that has expired since
    expires at once.
    """
    if (usage is None) == (entry is None):
        raise BadUsage("name the charge, either by --usage or by --entry")
    what = {"usage_id": usage, "entry_id": entry, "source": source, "reason": reason}
    run_async(_refund(subject_argument(subject), what, new_key(key), as_json=as_json))


async def _refund(subject: str, what: dict[str, Any], key: str, *, as_json: bool) -> None:
    async with ledger() as (store, _):
        done = await refund(store, subject=subject, actor=me(), key=key, **what)
        account = await reading.account(store, done.body["account"])
    value = {
        "refunded_credits": to_credits(done.body["amount"]),
        "charge": done.body["of"],
        "refund": done.outcome_id,
        "at": done.at.isoformat(),
        "repeated": done.repeated,
        **{n: account[n] for n in ("account", "balance", "held", "available", "debt")},
    }
    show(value, as_json=as_json, render=lambda: _render(value, done))


def _render(value: dict[str, Any], done: Done) -> None:
    amount = counted(value["refunded_credits"], "credit")
    if done.repeated:
        out.print(f"It was refunded before, {amount} at {moment(done.at)}: nothing was changed.")
    else:
        out.print(f"{amount} went back to {value['account']}.", markup=False)
    debt = f" and owes {plain(value['debt'])}" if value["debt"] else ""
    out.print(f"{value['account']} has {plain(value['available'])} available{debt}.", markup=False)


@app.command(
    "revoke",
    epilog=examples(
        "faregate credits grant user:zoe 10",
        "faregate credits revoke user:zoe --grant 1 --reason wrong_account",
    ),
)
def revoke_(
    subject: Subject,
    grant: Annotated[
        int,
        typer.Option(
            metavar="NO", min=1, max=2**63 - 1, help="Its no. in faregate credits grants."
        ),
    ],
    reason: Annotated[
        str | None, typer.Option(help="A code such as wrong_account; it stays for ever.")
    ] = None,
    key: KeyOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Take back what is left of one grant: what is neither used nor held by running pipelines.

    The account's other credits stay as they are. What a hold releases later is free again.
    """
    run_async(_revoke(subject_argument(subject), grant, reason, new_key(key), as_json=as_json))


async def _revoke(subject: str, grant: int, reason: str | None, key: str, *, as_json: bool) -> None:
    async with ledger() as (store, _):
        done = await revoke(store, subject, grant, actor=me(), key=key, reason=reason)
        account = await reading.account(store, subject)
        grants = await reading.grants(store, subject)
    held = next(g["held"] for g in grants if g["number"] == grant)
    value = {
        "revoked_credits": to_credits(done.body["amount"]),
        "grant": grant,
        "grant_held": held,
        "at": done.at.isoformat(),
        "repeated": done.repeated,
        **{n: account[n] for n in ("account", "balance", "held", "available", "debt")},
    }
    show(value, as_json=as_json, render=lambda: _render_revoked(value))


def _render_revoked(v: dict[str, Any]) -> None:
    amount = counted(v["revoked_credits"], "credit")
    before = "This was done before: " if v["repeated"] else ""
    said = f"{before}{amount} of grant {v['grant']} went from {v['account']}."
    out.print(said, markup=False)
    if v["grant_held"]:
        out.print(f"{plain(v['grant_held'])} of it are held still: revoke again once released.")
    out.print(f"{v['account']} has {plain(v['available'])} available.", markup=False)


@app.command(
    "grants",
    epilog=examples(
        "faregate credits grants org:acme",
        "faregate credits grants org:acme --at 2026-01-01 --json",
    ),
)
def grants_(
    subject: Subject,
    at: Annotated[str | None, typer.Option(help="As of this time (RFC 3339, or a date).")] = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """List what an account's credits are made of, in the order they burn; then what is gone."""
    when = time_argument(at, "--at")
    run_async(_grants(subject_argument(subject), when, as_json=as_json))


async def _grants(subject: str, at: Any, *, as_json: bool) -> None:
    async with ledger() as (store, _):
        found = reading.burn_order(await reading.grants(store, subject, await over(store, at)))
    show(found, as_json=as_json, render=lambda: _render_grants(subject, found))


def _render_grants(subject: str, found: list[dict[str, Any]]) -> None:
    if not found:
        out.print(f"{subject} has no grants", markup=False)
        return
    numbers = ("no.", "amount", "left", "held", "priority")
    columns = ("no.", "kind", "amount", "left", "held", "priority", "expires", "state", "from")
    shown = table((*columns, "by, notes"), right=numbers)
    for g in found:
        shown.add_row(
            str(g["number"]),
            g["kind"],
            *(plain(g[n]) for n in ("amount", "remaining", "held", "priority")),
            moment(g["expires_at"]) or "never",
            g["state"],
            g["source"] if g["source"] and g["source"] != g["kind"] else "",
            ", ".join(filter(None, (g["allocated_by"], g["notes"]))),
        )
    out.print(shown)


__all__ = ["app"]
