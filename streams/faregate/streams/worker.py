"""One worker: the applications of some streams in one process, started and stopped together."""

import asyncio
import os
import signal
import threading
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING

import structlog

from faregate.events.topics import Topic, apply_topics, partitions_of, topic_name
from faregate.streams.faults import StreamsFault
from faregate.streams.internal import internal_topics
from faregate.streams.options import Options
from faregate.streams.sources import SOURCES
from faregate.streams.watchdog import Watchdog

if TYPE_CHECKING:
    from faregate.streams.apps.base import Stream

log = structlog.get_logger("faregate.streams")

STOP_S = 10.0
"""A worker ends at most so long after it was told to; what it had in hand is read again."""
EXIT_FAULT = 70
"""The exit code of a worker that ends by a fault and does not stop in time."""
_LOOK_EVERY_S = 0.2


async def run(names: Sequence[str], options: Options) -> None:
    """Run streams until SIGTERM or SIGINT. Raises StreamsFault, and TopicsFailed."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    streams = await make(names, options)
    code = EXIT_FAULT
    try:
        await _watch(streams, stopping)
        code = 0
    finally:
        _end_hard_after(STOP_S, code)
        await asyncio.gather(*(_stop(stream) for stream in streams))
        log.info("streams_stopped", streams=list(names))


async def make(names: Sequence[str], options: Options) -> list["Stream"]:
    """Make the applications of some streams, and the topics that they need for themselves.

    Raises StreamsFault where a topic that they read does not exist or they do not fit together.
    """
    present = await partitions_of(options.bootstrap, kafka=options.kafka)
    counts = {name: _partitions(name, options.prefix, present) for name in names}
    for count in sorted(set(counts.values())):
        internal = internal_topics(name for name in names if counts[name] == count)
        _require_partitions(internal, count, options.prefix, present)
        changes = await apply_topics(
            options.bootstrap,
            kafka=options.kafka,
            prefix=options.prefix,
            replication=options.replication,
            partitions=count,
            topics=internal,
        )
        for change in changes:
            if change.action == "differs":
                log.warning("topic_differs", topic=change.topic, differences=change.differences)
    made: list[Stream] = [
        import_module(f"faregate.streams.apps.{name}").make(options, counts[name]) for name in names
    ]
    return made


def _partitions(name: str, prefix: str, present: Mapping[str, int]) -> int:
    counts = {}
    for source in SOURCES[name]:
        full_name = topic_name(prefix, source)
        if full_name not in present:
            raise StreamsFault(f"there is no topic {full_name}; run: faregate topics apply")
        counts[full_name] = present[full_name]
    if len(set(counts.values())) > 1:
        said = ", ".join(f"{topic} has {n}" for topic, n in counts.items())
        raise StreamsFault(f"{name} needs the same number of partitions in its topics: {said}")
    return next(iter(counts.values()))


def _require_partitions(
    topics: Sequence[Topic], count: int, prefix: str, present: Mapping[str, int]
) -> None:
    """Refuse a changelog with other partitions: each table would look in the wrong one."""
    for topic in topics:
        full_name = topic_name(prefix, topic.name)
        if present.get(full_name, count) != count:
            raise StreamsFault(
                f"{full_name} has {present[full_name]} partitions, and what is read has {count}: "
                "delete the internal topics of this stream, and it begins anew"
            )


async def _start_all(streams: Sequence["Stream"]) -> None:
    await asyncio.gather(*(_start(stream) for stream in streams))
    log.info("streams_started", streams=[stream.name for stream in streams])


async def _start(stream: "Stream") -> None:
    await stream.app.start()  # ends when its tables have recovered
    log.info("stream_started", stream=stream.name)


async def _watch(streams: Sequence["Stream"], stopping: asyncio.Event) -> None:
    """Start all, then wait until they shall stop.

    Raises StreamsFault where one ends by itself or is stuck, also before it has started.
    """
    start, stop = asyncio.create_task(_start_all(streams)), asyncio.create_task(stopping.wait())
    dogs = [asyncio.create_task(Watchdog(stream).run()) for stream in streams]
    waited = {start, stop, *dogs}
    try:
        while not stop.done():
            for stream in streams:
                if stream.app.crashed or stream.app.should_stop:
                    raise StreamsFault(f"{stream.name} has ended by itself; its log says why")
            done, waited = await asyncio.wait(
                waited, timeout=_LOOK_EVERY_S, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                await task
    finally:
        for task in (start, stop, *dogs):
            task.cancel()


async def _stop(stream: "Stream") -> None:
    await stream.app.stop()
    log.info(
        "stream_stopped",
        stream=stream.name,
        read=stream.reader.read_,
        skipped=stream.reader.skipped,
        signals=stream.sent,
    )


def _end_hard_after(seconds: float, code: int) -> None:
    """End the process if it is still there then: Faust can hang while it stops.

    Nothing is lost by that: what was not committed is read again.
    """

    def end() -> None:
        log.warning("streams_stop_timed_out", seconds=seconds)
        os._exit(code)

    timer = threading.Timer(seconds - 1.0, end)
    timer.daemon = True
    timer.start()
