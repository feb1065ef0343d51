"""`faregate orgs`: how an organization's credits may be spent, by whom, and what was used."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from faregate.ledger import acts, reading
from faregate.ledger.reading_orgs import GROUPS, members, usage
from faregate.runtime.cli.acting import (
    KeyOption,
    OrgArgument,
    UserArgument,
    me,
    new_key,
    org_argument,
    user_argument,
)
from faregate.runtime.cli.base import (
    BadUsage,
    JsonOption,
    amount_argument,
    examples,
    ledger,
    meant,
    new_app,
    out,
    period_argument,
    run_async,
    show,
    table,
    time_argument,
)
from faregate.runtime.wording import plain

app = new_app(
    "Policy, members and allocations of organizations; who used what.",
    "faregate orgs policy acme allocated",
    "faregate orgs allocate acme ada 100",
    "faregate orgs usage acme --group-by member",
)
Value = dict[str, Any]
POLICIES, ROLES = ("pool", "allocated"), ("admin", "member", "removed")
NEGATIVE = {"ignore_unknown_options": True}
CreditsArgument = Annotated[str, typer.Argument(metavar="CREDITS", help="At most 6 decimals.")]


def _one_of(what: str, text: str, known: tuple[str, ...]) -> Any:
    if text not in known:
        raise BadUsage(f"{what} must be {' or '.join(known)}, not {text!r}{meant(text, known)}")
    return text


@app.command(epilog=examples("faregate orgs policy acme", "faregate orgs policy acme allocated"))
def policy(
    org: OrgArgument,
    name: Annotated[
        str | None, typer.Argument(metavar="[POLICY]", help="pool or allocated")
    ] = None,
    key: KeyOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Show how an org's credits may be spent, or change it.

    pool: the org pays, then the user. allocated: a member pays from the org within what it has
    allocated to them, and nothing else.
    """
    wanted = None if name is None else _one_of("POLICY", name, POLICIES)
    run_async(_policy(org_argument(org), wanted, new_key(key), as_json=as_json))


async def _policy(org: str, wanted: Any, key: str, *, as_json: bool) -> None:
    async with ledger(makes=[org] if wanted is not None else []) as (store, _):
        if wanted is not None:
            await acts.set_policy(store, org, wanted, actor=me(), key=key)
        found = await reading.account(store, org)
    value = {n: found[n] for n in ("account", "policy", "balance", "held", "available", "debt")}
    show(value, as_json=as_json, render=lambda: _render_policy(value))


def _render_policy(v: Value) -> None:
    line = f"{v['account']}: {v['policy']}, {plain(v['available'])} credits available"
    out.print(f"{line}, {plain(v['held'])} held, {plain(v['debt'])} owed.", markup=False)


@app.command("members", epilog=examples("faregate orgs members acme"))
def members_(org: OrgArgument, *, as_json: JsonOption = False) -> None:
    """List an org's members: role, and what of their allocation is used, held and left."""
    run_async(_members(org_argument(org), None, as_json=as_json))


async def _members(org: str, user: str | None, *, as_json: bool) -> None:
    async with ledger() as (store, _):
        found = await members(store, org, user)
    show(found, as_json=as_json, render=lambda: _render_members(org, found))


def _render_members(org: str, found: list[Value]) -> None:
    if not found:
        out.print(f"{org} has no members", markup=False)
        return
    numbers = ("allocated", "used", "held", "remaining")
    shown = table(("user", "role", *numbers), right=numbers)
    for m in found:
        shown.add_row(m["user_id"], m["role"], *(plain(m[n]) for n in numbers))
    out.print(shown)


@app.command(
    epilog=examples(
        "faregate orgs member acme ada --role admin", "faregate orgs member acme ada --role removed"
    )
)
def member(
    org: OrgArgument,
    user: UserArgument,
    role: Annotated[str, typer.Option(help="admin, member or removed")] = "member",
    key: KeyOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Make somebody a member, change their role, or remove them.

    Who is removed loses what is free of their allocation; what is held for a run settles.
    """
    wanted = _one_of("--role", role, ROLES)
    who = org_argument(org), user_argument(user)
    run_async(_member(*who, wanted, new_key(key), as_json=as_json))


async def _member(org: str, user: str, role: Any, key: str, *, as_json: bool) -> None:
    async with ledger(makes=[org, user]) as (store, _):
        done = await acts.set_member(store, org, user, role, actor=me(), key=key)
        found = await members(store, org, user)
    was = {"role": role, "allocated": 0, "used": 0, "held": 0, "remaining": 0}
    value = {"org": org, "user": user, "from": done.body["from"], **(found[0] if found else was)}
    show(
        value,
        as_json=as_json,
        render=lambda: out.print(
            f"{user} is {'removed from' if role == 'removed' else f'{role} of'} {org}.",
            markup=False,
        ),
    )


@app.command(
    context_settings=NEGATIVE,
    epilog=examples(
        "faregate orgs allocate acme ada 100",
        "faregate orgs allocate acme ada 100 --expires-at 2030-01-31 --notes 'spring term'",
    ),
)
def allocate(
    org: OrgArgument,
    user: UserArgument,
    credits_: CreditsArgument,
    expires_at: Annotated[
        str | None, typer.Option(help="When it expires (RFC 3339, or a date).")
    ] = None,
    notes: Annotated[str | None, typer.Option(help="For people; can be erased.")] = None,
    key: KeyOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Let a member spend so many more of the org's credits.

    Allocations may together exceed what the org has; spending may not.
    """
    terms = {"expires_at": time_argument(expires_at, "--expires-at"), "notes": notes}
    micro, who = amount_argument(credits_), (org_argument(org), user_argument(user))
    run_async(_allocate(*who, micro, terms, new_key(key), as_json=as_json))


async def _allocate(
    org: str, user: str, micro: int, terms: Value, key: str, *, as_json: bool
) -> None:
    async with ledger(makes=[org, user]) as (store, _):
        by = me()
        await acts.allocate(store, org, user, micro, actor=by, allocated_by=by, key=key, **terms)
        found = await members(store, org, user)
    _show_one(org, found, as_json=as_json)


@app.command(
    context_settings=NEGATIVE,
    epilog=examples("faregate orgs reclaim acme ada 20", "faregate orgs reclaim acme ada"),
)
def reclaim(
    org: OrgArgument,
    user: UserArgument,
    credits_: Annotated[
        str | None, typer.Argument(metavar="[CREDITS]", help="All that is free by default.")
    ] = None,
    key: KeyOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Take back what is neither used nor held of a member's allocation, or a part of it."""
    micro = None if credits_ is None else amount_argument(credits_)
    who = org_argument(org), user_argument(user)
    run_async(_reclaim(*who, micro, new_key(key), as_json=as_json))


async def _reclaim(org: str, user: str, micro: int | None, key: str, *, as_json: bool) -> None:
    async with ledger() as (store, _):
        await acts.reclaim(store, org, user, micro, actor=me(), key=key)
        found = await members(store, org, user)
    _show_one(org, found, as_json=as_json)


def _show_one(org: str, found: list[Value], *, as_json: bool) -> None:
    value = {"org": org, **found[0]}
    show(value, as_json=as_json, render=lambda: _render_members(org, found))


@app.command(
    "usage",
    epilog=examples(
        "faregate orgs usage acme",
        "faregate orgs usage acme --group-by member,model --from 2026-01-01 --to 2026-02-01",
    ),
)
def usage_(
    org: OrgArgument,
    group_by: Annotated[
        str, typer.Option(metavar="LIST", help=f"Some of {','.join(GROUPS)}.")
    ] = "member",
    from_: Annotated[
        str | None, typer.Option("--from", help="From this time on (RFC 3339, or a date).")
    ] = None,
    to: Annotated[str | None, typer.Option(help="Before this time.")] = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Say what an org was charged, by member, model, phase and day (UTC).

    The total is the ledger's, to the last decimal. Refunds count when they were made, for what the
    charge was for.
    """
    groups = [g for g in group_by.replace(" ", "").split(",") if g]
    for name in groups:
        _one_of("--group-by", name, GROUPS)
    since, until = period_argument(from_, to)
    run_async(_usage(org_argument(org), groups, since, until, as_json=as_json))


async def _usage(org: str, groups: list[str], since: Any, until: Any, *, as_json: bool) -> None:
    async with ledger() as (store, _):
        found = await usage(store, org, groups, since, until)
    show(found, as_json=as_json, render=lambda: _render_usage(found))


def _render_usage(found: Value) -> None:
    names = {"member": "user_id", "model": "model", "phase": "phase", "day": "day"}
    groups = [names[g] for g in found["group_by"]]
    numbers = ("events", "charged", "refunded", "net")
    shown = table((*groups, *numbers), right=numbers)
    for row in found["rows"]:
        shown.add_row(*(str(row[g] or "-") for g in groups), *(plain(row[n]) for n in numbers))
    total = ["total", *[""] * (len(groups) - 1)] if groups else []
    shown.add_row(*total, *(plain(found["total"][n]) for n in numbers))
    out.print(shown)
