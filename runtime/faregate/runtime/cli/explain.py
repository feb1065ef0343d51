"""`faregate explain`."""

from __future__ import annotations

import textwrap
from typing import Annotated, Any

import typer
from aiokafka.errors import KafkaError

from faregate.runtime import explain as explaining
from faregate.runtime import servers
from faregate.runtime.cli.base import (
    JsonOption,
    Refused,
    counted,
    examples,
    ledger,
    moment,
    new_app,
    out,
    run_async,
    show,
    table,
)
from faregate.runtime.cli.story import tell
from faregate.runtime.doctor import lag_by_group
from faregate.runtime.servers import ServerMissing
from faregate.runtime.settings import Settings
from faregate.runtime.wording import plain

app = new_app("Explain.")


@app.command(
    epilog=examples(
        "faregate trigger PipelineRequestedV1 --set pipeline_id=run-7",
        "faregate explain run-7",
        "faregate trigger UsageRecordedV1 --set usage_id=call-17",
        "faregate explain call-17 --json",
    )
)
def explain(
    identifier: Annotated[
        str, typer.Argument(metavar="PIPELINE_ID|USAGE_ID", help="As your events call it.")
    ],
    *,
    as_json: JsonOption = False,
) -> None:
    """Say why a pipeline was let in or denied, and what became of it; or what usage cost.

    Duplicates leave no trace in the ledger, so it cannot say how often an event was sent.
    """
    run_async(_explain(identifier, as_json=as_json))


async def _explain(identifier: str, *, as_json: bool) -> None:
    async with ledger() as (store, settings):
        found = await explaining.explain(store, identifier)
        if found is None:
            waiting = await _waiting(store, settings)
            message = f"the ledger knows no pipeline and no usage {identifier!r}. {waiting}"
            raise Refused("not_found", message, "look for it with: faregate dlq list")
    found["story"] = tell(found)
    show(found, as_json=as_json, render=lambda: _render(found))


async def _waiting(store: Any, settings: Settings) -> str:
    """Say whether it may only not have been read yet."""
    try:
        lags = await lag_by_group(store.pool, settings.cluster(servers.kafka(settings)))
    except (ServerMissing, KafkaError, OSError):  # a TimeoutError is an OSError
        return "Kafka is away, so it cannot be told whether records wait to be read"
    behind = [f"{name} has {counted(lag, 'record')} to read" for name, lag in lags.items() if lag]
    if behind:
        return f"It may not have been read yet: {', '.join(behind)}"
    return "Everything sent has been read, so it was never sent, or it is a dead letter"


def _render(found: dict[str, Any]) -> None:
    for paragraph in found["story"]:
        out.print(_wrapped(paragraph), markup=False)
    parts = [found["pipeline"]] if found["pipeline"] else found["usages"]
    rows = [e for part in parts for e in part["entries"]]
    if not rows:
        return
    out.print("\nThe entries:")
    numbers = ("seq", "amount", "held", "debt", "balance")
    shown = table(("account", "seq", "at", "kind", *numbers[1:], "what"), right=numbers)
    for e in rows[:_SHOWN]:
        what = " ".join(str(v) for v in (e.get("phase"), e.get("usage_id"), e.get("reason")) if v)
        shown.add_row(
            _account(e),
            str(e["sequence"]),
            moment(e["at"]),
            e["kind"],
            *(plain(e[n]) for n in ("amount", "held_delta", "debt_delta", "balance")),
            what,
        )
    out.print(shown)
    if len(rows) > _SHOWN:
        out.print(f"and {len(rows) - _SHOWN:,} more: --json lists them all")


def _account(entry: dict[str, Any]) -> str:
    """Name an entry's account; a member's allocation by whose it is, not by numbers."""
    name: str = entry["account"]
    return f"allocation of {entry.get('user_id')}" if name.startswith("member:") else name


_SHOWN = 60


def _wrapped(paragraph: str) -> str:
    indent = " " * (len(paragraph) - len(paragraph.lstrip()))
    return textwrap.fill(
        paragraph.lstrip(),
        min(out.width, _READABLE_COLUMNS),
        initial_indent=indent,
        subsequent_indent=f"{indent}  ",
    )


_READABLE_COLUMNS = 100
