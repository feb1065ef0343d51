"""`faregate trigger`."""

from __future__ import annotations

import difflib
from typing import Annotated, Any

import typer

from faregate.consumers.topic_ids import describe
from faregate.events import EventData, InvalidRecord, PublishedRecord, Publisher
from faregate.events.topics import TOPIC_OF_TYPE
from faregate.runtime import servers
from faregate.runtime.cli.base import BadUsage, JsonOption, examples, new_app, out, run_async, show
from faregate.runtime.servers import ServerMissing
from faregate.runtime.settings import load
from faregate.runtime.trigger import INBOUND, SOURCE, BadField, example

app = new_app("Trigger.")


@app.command(
    epilog=examples(
        "faregate trigger PipelineRequestedV1 --set items=10 --set org_id=acme",
        "faregate trigger UsageRecordedV1 --set pipeline_id=run-1 --set units=3",
        "faregate trigger UsageRecordedV1 --set model=gpt-4o-mini --set input_tokens=1200",
        "faregate trigger PipelineRequestedV1 --set 'phases=[\"spellcheck\"]'",
    )
)
def trigger(
    event: Annotated[str, typer.Argument(help=f"One of {', '.join(INBOUND)}.")],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Set a field; repeat it for more."),
    ] = None,
    event_id: Annotated[str | None, typer.Option("--id", help="Event id; a new one.")] = None,
    source: Annotated[str, typer.Option(help="CloudEvents source.")] = SOURCE,
    correlation_id: Annotated[
        str | None, typer.Option(help="Ties events together; the pipeline_id.")
    ] = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Publish an example event with ids of its own, to see what Faregate makes of it.

    Values are taken as JSON where the field is no text; null removes a field. The same --id and
    --source again is a duplicate; with other fields it ends in the dead letter queue.
    """
    changes = dict(map(_field, set_ or []))
    try:
        data = example(_event_type(event), changes)
    except BadField as error:
        raise BadUsage(str(error)) from error
    run_async(_trigger(data, event_id, source, correlation_id, as_json=as_json))


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
    close = difflib.get_close_matches(text.lower(), by_name, 1)
    hint = f"; did you mean {by_name[close[0]]}?" if close else ""
    raise BadUsage(f"{text!r} is no event that Faregate reads: {', '.join(INBOUND)}{hint}")


async def _trigger(
    data: EventData, event_id: str | None, source: str, correlation: str | None, *, as_json: bool
) -> None:
    settings = load()
    kafka = servers.find(settings).kafka
    topic = settings.cluster(kafka).topic(TOPIC_OF_TYPE[type(data).__name__])
    if topic not in (await describe(kafka, [topic])).ids:
        raise ServerMissing(f"there is no topic {topic}: run `faregate topics apply`")
    if not source:
        raise BadUsage("--source must not be empty")
    async with Publisher(kafka, source, prefix=settings.topic_prefix) as publisher:
        try:
            sent = await publisher.publish(data, id=event_id, correlation_id=correlation)
        except (InvalidRecord, ValueError) as error:
            raise BadUsage(f"this event cannot be published: {error}") from error
    value = _value(sent)
    show(value, as_json=as_json, render=lambda: _render(value))


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
