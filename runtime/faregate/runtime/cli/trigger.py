"""`faregate trigger`."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Annotated, Any

import typer

from faregate.consumers.topic_ids import describe
from faregate.events import EventData, InvalidRecord, PublishedRecord, Publisher
from faregate.events.topics import TOPIC_OF_TYPE
from faregate.runtime import servers
from faregate.runtime.cli.base import (
    BadUsage,
    JsonOption,
    err,
    examples,
    meant,
    new_app,
    out,
    run_async,
    show,
)
from faregate.runtime.settings import load
from faregate.runtime.trigger import INBOUND, SOURCE, BadField, example

app = new_app("Trigger.")


@app.command(
    epilog=examples(
        "faregate trigger PipelineRequestedV1 --set items=10 --set org_id=acme",
        "faregate trigger PipelineRequestedV1 --set user_id=ada --set org_id=null",
        "faregate trigger UsageRecordedV1 --set pipeline_id=run-1 --set units=3",
        "faregate trigger UsageRecordedV1 --set model=gpt-4o-mini --set input_tokens=1200",
        "faregate trigger PipelineRequestedV1 --set 'phases=[\"spellcheck\"]'",
    )
)
def trigger(
    event: Annotated[str, typer.Argument(metavar="EVENT", help=f"One of {', '.join(INBOUND)}.")],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Set a field; repeat it for more."),
    ] = None,
    event_id: Annotated[
        str | None, typer.Option("--id", help="Event id; a new one by default.")
    ] = None,
    source: Annotated[str, typer.Option(help="CloudEvents source.")] = SOURCE,
    correlation_id: Annotated[
        str | None, typer.Option(help="Ties events together; the pipeline_id by default.")
    ] = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Publish an example event with ids of its own, to see what Faregate makes of it.

    What is not set is filled in from the example (user, org, ids), and said on stderr.

    Values are taken as JSON where the field is no text; null leaves a field out. The same --id and
    --source again is a duplicate; with other fields it ends in the dead letter queue.
    """
    changes = dict(map(_field, set_ or []))
    try:
        data = example(_event_type(event), changes)
    except BadField as error:
        raise BadUsage(str(error)) from error
    run_async(_trigger(data, changes.keys(), event_id, source, correlation_id, as_json=as_json))


def _field(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise BadUsage(f"--set {text!r}: write --set field=value")
    return name, value


def _event_type(text: str) -> str:
    by_name = {name.lower(): name for name in INBOUND}
    by_name |= {name.removesuffix("v1"): full for name, full in by_name.items()}
    if (found := by_name.get(text.lower())) is not None:
        return found
    known = f"{', '.join(INBOUND)}{meant(text, INBOUND)}"
    raise BadUsage(f"{text!r} is no event that Faregate reads: {known}")


async def _trigger(
    data: EventData,
    given: Collection[str],
    event_id: str | None,
    source: str,
    correlation: str | None,
    *,
    as_json: bool,
) -> None:
    settings = load()
    cluster = settings.cluster(servers.kafka(settings))
    topic = cluster.topic(TOPIC_OF_TYPE[type(data).__name__])
    if topic not in (await describe(cluster, [topic])).ids:
        raise servers.no_topic(topic)
    if not source:
        raise BadUsage("--source must not be empty")
    async with Publisher(
        cluster.bootstrap, source, prefix=cluster.prefix, kafka=cluster.kafka
    ) as publisher:
        try:
            sent = await publisher.publish(data, id=event_id, correlation_id=correlation)
        except (InvalidRecord, ValueError) as error:
            raise BadUsage(f"this event cannot be published: {error}") from error
    value = _value(sent)
    if filled := _filled_in(sent.event.data, given):
        err.print(filled, markup=False)
    show(value, as_json=as_json, render=lambda: _render(value))


def _filled_in(data: Mapping[str, Any], given: Collection[str]) -> str:
    """Say which values are the example's, not the caller's: money may move for such an org."""
    own = {name: value for name, value in data.items() if name not in given and value is not None}
    if not own:
        return ""
    texts = {n: v if isinstance(v, str) else json.dumps(v) for n, v in own.items()}
    values = ", ".join(f"{name}={text}" for name, text in texts.items())
    leave_out = "; --set org_id=null names no org" if "org_id" in own else ""
    return f"filled in from the example: {values}. Set your own with --set{leave_out}."


def _value(sent: PublishedRecord) -> dict[str, Any]:
    event = sent.event
    return {
        "topic": sent.topic,
        "partition": sent.partition,
        "offset": sent.offset,
        "id": event.id,
        "source": event.source,
        "type": event.type,
        "data": event.data,
        "next": _next(event.type, event.data),
    }


def _next(event_type: str, data: dict[str, Any]) -> list[str]:
    subject = f"org:{data['org_id']}" if data.get("org_id") else f"user:{data['user_id']}"
    same = "".join(
        f" --set {name}={data[name]}"
        for name in ("pipeline_id", "user_id", "org_id")
        if data.get(name) is not None
    )
    if not data.get("org_id"):
        same += " --set org_id=null"
    commands = {
        "PipelineRequestedV1": [
            f"faregate explain {data.get('pipeline_id')}",
            f"faregate trigger UsageRecordedV1{same}",
            "faregate tail denials --from-start",
        ],
        "UsageRecordedV1": [f"faregate explain {data.get('usage_id')}"],
        "PipelinePhaseCompletedV1": [f"faregate explain {data.get('pipeline_id')}"],
        "PipelineFinishedV1": [f"faregate explain {data.get('pipeline_id')}"],
    }
    return [*commands.get(event_type, []), f"faregate credits history {subject}"]


def _render(value: dict[str, Any]) -> None:
    out.print(f"published {value['type']} {value['id']}", markup=False)
    place = f"{value['topic']}, partition {value['partition']}, offset {value['offset']}"
    out.print(f"  to    {place}", markup=False)
    out.print(f"  from  {value['source']}", markup=False)
    for name, field in value["data"].items():
        out.print(f"  {name} = {field}", markup=False)
    out.print("try next:")
    for command in value["next"]:
        out.print(f"  {command}", markup=False)
