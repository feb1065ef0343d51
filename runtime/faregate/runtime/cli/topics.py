"""`faregate topics`."""

from __future__ import annotations

from faregate.events.topics import TopicChange, apply_topics
from faregate.runtime import servers
from faregate.runtime.cli.base import JsonOption, examples, new_app, out, run_async, show
from faregate.runtime.settings import load

app = new_app("Kafka topics.", "faregate topics apply")


@app.command("apply", epilog=examples("faregate topics apply"))
def apply_(*, as_json: JsonOption = False) -> None:
    """Create the topics that are missing, and say where existing ones differ.

    Nothing is ever changed in a topic that exists: what to do about a difference is yours.
    """
    run_async(_apply(as_json=as_json))


async def _apply(*, as_json: bool) -> None:
    settings = load()
    changes = await apply_topics(
        servers.kafka(settings),
        kafka=settings.kafka_options(),
        prefix=settings.topic_prefix,
        replication=settings.replication,
        partitions=settings.partitions,
    )
    show(
        [
            {"topic": c.topic, "action": c.action, "differences": list(c.differences)}
            for c in changes
        ],
        as_json=as_json,
        render=lambda: out.print("\n".join(map(_line, changes)), markup=False),
    )


def _line(change: TopicChange) -> str:
    return "  ".join([f"{change.action:<9} {change.topic}", *change.differences])
