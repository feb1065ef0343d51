"""`faregate dlq`: what can never be processed, why, and trying it again."""

from __future__ import annotations

import json
from collections import Counter
from datetime import datetime
from typing import Annotated, Any

import typer

from faregate.consumers.kafka import Cluster
from faregate.consumers.replay import (
    Letter,
    NoSuchLetter,
    Replayed,
    letter_at,
    newest_of_each,
    replay,
)
from faregate.events import INPUT_TOPICS
from faregate.events.topics import DLQ_SUFFIX
from faregate.runtime import servers
from faregate.runtime.cli.base import (
    BadUsage,
    JsonOption,
    Refused,
    counted,
    examples,
    meant,
    moment,
    new_app,
    out,
    run_async,
    show,
    table,
)
from faregate.runtime.dead_letters import read, record_of, value_of, whole_of
from faregate.runtime.settings import load

app = new_app(
    "Dead letters: records that can never be processed, their bytes untouched.",
    "faregate dlq list",
    "faregate dlq replay --all usage.recorded",
)

Place = Annotated[
    list[str], typer.Argument(metavar="ID | TOPIC PARTITION OFFSET", help="As `dlq list` names it.")
]
TopicArgument = Annotated[
    str | None, typer.Argument(help=f"One of {', '.join(INPUT_TOPICS)}; all by default.")
]
_PLACE_WORDS = 3


def _cluster() -> Cluster:
    settings = load()
    return settings.cluster(servers.kafka(settings))


def _topic(text: str) -> str:
    """Read the name of an input topic: with prefix or `.dlq` as well."""
    name = text.removesuffix(DLQ_SUFFIX)
    if name not in INPUT_TOPICS:
        name = name.removeprefix(load().topic_prefix)
    if name not in INPUT_TOPICS:
        known = f"take one of {', '.join(INPUT_TOPICS)}{meant(name, INPUT_TOPICS)}"
        raise BadUsage(f"{text!r} has no dead letters: {known}")
    return name


def _place(words: list[str]) -> tuple[str, int, int]:
    parts = words[0].rsplit(":", 2) if len(words) == 1 else words
    if len(parts) == _PLACE_WORDS and parts[1].isdecimal() and parts[2].isdecimal():
        return _topic(parts[0]), int(parts[1]), int(parts[2])
    shown = " ".join(words)
    raise BadUsage(
        f"{shown!r} names no dead letter: write TOPIC PARTITION OFFSET, or an id such as "
        "usage.recorded:0:17 from `faregate dlq list`"
    )


@app.command("list", epilog=examples("faregate dlq list", "faregate dlq list usage.recorded"))
def list_(
    topic: TopicArgument = None,
    error: Annotated[
        str | None, typer.Option(metavar="CODE", help="Only those with this error.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the newest.")] = 200,
    *,
    as_json: JsonOption = False,
) -> None:
    """List dead letters, oldest first: where they lie, why, and how often they were tried."""
    topics = [_topic(topic)] if topic else list(INPUT_TOPICS)
    run_async(_list(topics, error, limit, as_json=as_json))


async def _list(topics: list[str], error: str | None, limit: int, *, as_json: bool) -> None:
    found = await read(_cluster(), topics, error)
    shown = found[-limit:]
    show(
        [value_of(letter) for letter in shown],
        as_json=as_json,
        render=lambda: _render_list(shown, len(found)),
    )


def _render_list(shown: list[Letter], total: int) -> None:
    if not shown:
        out.print("no dead letters")
        return
    rows = table(("id", "at", "tried", "why"), right=("tried",))
    for x in shown:
        rows.add_row(x.id, moment(x.at), str(x.attempts), f"{x.error}: {x.message}")
    out.print(rows, markup=False)
    if total > len(shown):
        out.print(f"the newest {len(shown):,} of {total:,}: --limit shows more")
    out.print(
        "\nSee one with `faregate dlq show ID`; once its cause is gone, `faregate dlq replay`."
    )


@app.command(
    "show",
    epilog=examples(
        "faregate dlq list  # names the ids",
        "faregate dlq show usage.recorded:0:17",
        "faregate dlq show usage.recorded 0 17 --json",
    ),
)
def show_(place: Place, *, as_json: JsonOption = False) -> None:
    """Show one dead letter: its bytes, key and headers, and what was wrong."""
    run_async(_show(*_place(place), as_json=as_json))


async def _letter(topic: str, partition: int, offset: int) -> Letter:
    try:
        return await letter_at(_cluster(), topic, partition, offset)
    except NoSuchLetter as error:
        raise Refused("not_found", str(error), "see what there is: faregate dlq list") from error


async def _show(topic: str, partition: int, offset: int, *, as_json: bool) -> None:
    letter = await _letter(topic, partition, offset)
    value = whole_of(letter)
    show(value, as_json=as_json, render=lambda: _render(value))


def _render(value: dict[str, Any]) -> None:
    tried = counted(value["attempts"], "time")
    since = moment(_time(value["first_seen"])) or "?"
    out.print(f"{value['error']}: {value['message']}", style="bold", markup=False)
    out.print(f"tried       {tried}, first failed {since}", markup=False)
    source = f"{value['topic']}[{value['source_partition']}]@{value['source_offset']}"
    out.print(f"came from   {source}", markup=False)
    out.print(f"lies at     {value['id']}", markup=False)
    out.print(f"key         {value['key']}", markup=False)
    for name, text in value["headers"]:
        out.print(f"header      {name}: {text}", markup=False)
    event = value["event"]
    if event:
        out.print(f"event       {event['type']} {event['id']} from {event['source']}", markup=False)
        out.print(json.dumps(event["data"], indent=2, ensure_ascii=False), markup=False)
    else:
        out.print(f"{counted(value['bytes'], 'byte')} that are no event:", markup=False)
        out.print((value["value"] or "")[:_SHOWN_CHARS], markup=False)
    out.print(f"\nTry it again once the cause is gone: faregate dlq replay {value['id']}")


_SHOWN_CHARS = 4_000


def _time(text: str | None) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if text else None
    except ValueError:
        return None


@app.command(
    "replay",
    epilog=examples(
        "faregate dlq replay usage.recorded:0:17  # an id of `faregate dlq list`",
        "faregate dlq replay --all usage.recorded",
        "faregate dlq replay --all usage.recorded --error payer_mismatch",
    ),
)
def replay_(
    place: Annotated[
        list[str] | None,
        typer.Argument(metavar="ID | TOPIC PARTITION OFFSET", help="One, as `dlq list` names it."),
    ] = None,
    all_of: Annotated[
        str | None, typer.Option("--all", metavar="TOPIC", help="All of a topic's.")
    ] = None,
    error: Annotated[str | None, typer.Option(help="With --all: those with this error.")] = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Publish dead letters again to the topic they came from, bytes, key and headers untouched.

    Nothing is deleted and what was replayed is not remembered: a letter stays listed until its
    retention is over. Replaying again is harmless: what was accepted once changes nothing. What
    fails again becomes a new dead letter, tried once more.
    """
    if (place is None or not place) == (all_of is None):
        raise BadUsage("name one dead letter, or all of a topic's with --all TOPIC")
    if error is not None and all_of is None:
        raise BadUsage("--error goes with --all TOPIC")
    if all_of is not None:
        run_async(_replay_all(_topic(all_of), error, as_json=as_json))
    else:
        run_async(_replay_one(*_place(place or []), as_json=as_json))


async def _replay_one(topic: str, partition: int, offset: int, *, as_json: bool) -> None:
    _report(await replay(_cluster(), [await _letter(topic, partition, offset)]), as_json=as_json)


async def _replay_all(topic: str, error: str | None, *, as_json: bool) -> None:
    cluster = _cluster()
    found = newest_of_each(await read(cluster, [topic], error))
    _report(await replay(cluster, found) if found else [], as_json=as_json)


def _report(done: list[Replayed], *, as_json: bool) -> None:
    value = {
        "replayed": len(done),
        "records": [record_of(r) for r in done],
    }
    show(value, as_json=as_json, render=lambda: _render_replayed(done))


def _render_replayed(done: list[Replayed]) -> None:
    if not done:
        out.print("nothing to replay")
        return
    for topic, count in Counter(r.topic for r in done).items():
        out.print(f"{counted(count, 'record')} published again to {topic}", markup=False)
    out.print("They stay in the dead letter queue. What fails again is listed there once more.")
