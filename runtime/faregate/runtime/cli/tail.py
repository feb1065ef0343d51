"""`faregate tail`."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from faregate.events.topics import dlq_of
from faregate.runtime import servers
from faregate.runtime.cli.base import (
    BadUsage,
    err,
    examples,
    meant,
    moment,
    new_app,
    out,
    run_async,
)
from faregate.runtime.settings import load
from faregate.runtime.tail import ALIASES, NAMES, follow

app = new_app("Tail.")


@app.command(
    epilog=examples(
        "faregate tail denials  # and Ctrl-C",
        "faregate tail credits.ledger --from-start --timeout 3",
        "faregate tail usage.recorded.dlq --from-start --timeout 3 --json",
    )
)
def tail(
    topic: Annotated[str, typer.Argument(metavar="TOPIC|denials|usage")],
    from_start: Annotated[
        bool, typer.Option("--from-start", help="Begin with the oldest record that is kept.")
    ] = False,
    count: Annotated[int | None, typer.Option(min=1, help="End after so many records.")] = None,
    timeout: Annotated[float | None, typer.Option(min=0, help="End after so many seconds.")] = None,
    *,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per line, as they come.")
    ] = False,
) -> None:
    """Follow a topic, a dead letter queue (<topic>.dlq), the denials or the usage; Ctrl-C ends it.

    It reads beside all consumer groups and changes nothing. Unlike other commands --json prints
    one JSON value for each record, on a line of its own.
    """
    name = _topic(topic)
    run_async(_tail(name, from_start=from_start, count=count, timeout_s=timeout, as_json=as_json))


def _topic(text: str) -> str:
    prefix = load().topic_prefix
    name = ALIASES.get(text, text)
    if name not in NAMES and prefix:
        name = name.removeprefix(prefix)
    if name not in NAMES:
        topics = ", ".join(n for n in NAMES if not n.endswith(dlq_of("")))
        raise BadUsage(
            f"no topic {text!r}: take denials, usage, or one of {topics} "
            f"(input topics also with {dlq_of('')}){meant(text, (*ALIASES, *NAMES))}"
        )
    return name


async def _tail(
    name: str, *, from_start: bool, count: int | None, timeout_s: float | None, as_json: bool
) -> None:
    settings = load()
    cluster = settings.cluster(servers.kafka(settings))
    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    if not as_json:
        where = "from the start" if from_start else "from now on"
        err.print(f"{cluster.topic(name)} {where}; Ctrl-C ends", style="dim", markup=False)
    records = follow(
        cluster, name, stopping, from_start=from_start, count=count, timeout_s=timeout_s
    )
    async for record in records:
        if as_json:
            sys.stdout.write(json.dumps(record) + "\n")
            sys.stdout.flush()
        else:
            out.print(line_of(record), markup=False)


def line_of(record: dict[str, Any]) -> str:
    """Write a record for people, on one line."""
    at = moment(record.get("time") or record["at"])
    place = f"[{record['partition']}]@{record['offset']}"
    headers = record.get("headers", {})
    dead = f"{headers['faregate-error']}: " if "faregate-error" in headers else ""
    if "invalid" in record:
        return f"{at} {place} {dead}no event: {record['invalid']}"
    describe = _LINES.get(record["type"].removesuffix("V1"), _any)
    return f"{at} {place} {dead}{record['type']} {describe(record['data'])}".rstrip()


Describe = Callable[[dict[str, Any]], str]


def _requested(d: dict[str, Any]) -> str:
    items = "1 item" if d.get("items") == 1 else f"{d.get('items')} items"  # not checked: any JSON
    return f"{d.get('pipeline_id')}: {d.get('pipeline')}, {items}, for {_who(d)}"


def _denied(d: dict[str, Any]) -> str:
    return (
        f"{d['pipeline_id']} for {_who(d)}: {d['reason']}, {d['required_credits']} required, "
        f"{d['available_credits']} available"
    )


def _initiated(d: dict[str, Any]) -> str:
    phases = ", ".join(d["phases"]) or "nothing to run"
    return f"{d['pipeline_id']}: {phases}; {d['reserved_credits']} reserved at {d['payer']}"


def _usage(d: dict[str, Any]) -> str:
    what = f"{d.get('units')} x {d.get('phase')}" if d.get("phase") else str(d.get("model"))
    return f"{d.get('usage_id')}: {what} by {_who(d)} {d.get('pipeline_id') or ''}"


def _entry(d: dict[str, Any]) -> str:
    parts = [
        f"{name} {d[field]:+}"
        for name, field in (("amount", "amount"), ("held", "held_delta"), ("debt", "debt_delta"))
        if d.get(field)
    ]
    what = d.get("usage_id") or d.get("pipeline_id") or d.get("reason") or ""
    return f"{d['account']} #{d['sequence']} {', '.join(parts) or '0'} -> {d['balance']} {what}"


def _alert(d: dict[str, Any]) -> str:
    what = d.get("usage_id") or d.get("model") or d.get("phase") or ""
    return f"{d['account']}: {d['available']} available, {d['debt']} debt {what}"


def _who(d: dict[str, Any]) -> str:
    return f"{d.get('user_id')}" + (f" of {d['org_id']}" if d.get("org_id") else "")


def _any(d: dict[str, Any]) -> str:
    return " ".join(f"{k}={v}" for k, v in d.items() if v is not None)


_LINES: dict[str, Describe] = {
    "PipelineRequested": _requested,
    "PipelineDenied": _denied,
    "PipelineInitiated": _initiated,
    "UsageRecorded": _usage,
    **dict.fromkeys(
        (
            "CreditsGranted",
            "CreditsHeld",
            "CreditsReleased",
            "CreditsDeducted",
            "CreditsRefunded",
            "CreditsExpired",
            "CreditsAdjusted",
            "DebtPaid",
        ),
        _entry,
    ),
    **dict.fromkeys(("CreditsLow", "CreditsExhausted", "DebtIncurred", "UsageUnpriced"), _alert),
}
