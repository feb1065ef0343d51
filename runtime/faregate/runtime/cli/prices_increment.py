"""`faregate prices increment`: what vendor prices are rounded up to."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from faregate.events.amounts import MICRO
from faregate.ledger.core.prices import InvalidIncrement, parse_increment
from faregate.ledger.pricing import ALLOWED, Increment, increment, set_increment
from faregate.runtime.cli.acting import me
from faregate.runtime.cli.base import (
    BadUsage,
    JsonOption,
    counted,
    examples,
    ledger,
    moment,
    out,
    run_async,
    show,
)
from faregate.runtime.cli.prices import app

_NEGATIVE = {"ignore_unknown_options": True}


@app.command(
    "increment",
    context_settings=_NEGATIVE,
    epilog=examples("faregate prices increment", "faregate prices increment 0.01"),
)
def increment_(
    value: Annotated[
        str | None, typer.Argument(metavar="[VALUE]", help="0.01, 0.1 or 1.0 credits.")
    ] = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Show what vendor prices are rounded up to, or change it.

    A change is a new price version, in force at once in every running process; versions that are
    to come get it too.
    """
    wanted = None if value is None else _number(value)
    run_async(_increment(wanted, as_json=as_json))


def _number(text: str) -> Any:
    try:
        number = json.loads(text)
        parse_increment(number)
    except InvalidIncrement as error:
        raise BadUsage(f"{text!r}: {error}", "faregate prices increment 0.1") from error
    except ValueError as error:
        allowed = ", ".join(map(str, ALLOWED))
        message = f"{text!r} is no number: the increment must be one of {allowed} (credits)"
        raise BadUsage(message, "faregate prices increment 0.1") from error
    return number


async def _increment(wanted: Any, *, as_json: bool) -> None:
    async with ledger() as (store, _):
        if wanted is None:
            found = await increment(store)
        else:
            found = await set_increment(store, wanted, actor=me())
    value = {
        "increment": found.micro / MICRO,
        "allowed": list(ALLOWED),
        "updated_by": found.updated_by,
        "updated_at": found.updated_at.isoformat(),
    }
    if wanted is not None:
        value |= {"old": found.old_micro / MICRO, "versions": list(found.versions)}
    show(value, as_json=as_json, render=lambda: _render(found, changed=wanted is not None))


def _render(found: Increment, *, changed: bool) -> None:
    now, old = found.micro / MICRO, found.old_micro / MICRO
    if not changed:
        out.print(
            f"Vendor prices are rounded up to {now} credits (set by {found.updated_by} at "
            f"{moment(found.updated_at)})."
        )
    elif not found.changed:
        out.print(f"Vendor prices are rounded up to {now} credits already; nothing was changed.")
    else:
        made = counted(len(found.versions), "new price version")
        out.print(f"Vendor prices are rounded up to {now} credits from now on, not {old}: {made}.")


__all__ = ["app"]
