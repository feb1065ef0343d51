"""Events per second of each stream on one worker: RocksDB, changelogs and signals included.

The child process runs one stream after another, so that none shares its time with another. What
is timed is a backlog: from the first event that was taken in to the last one.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import Iterable
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Any

from tests.bench import events
from tests.bench.figures import Figure, rate
from tests.bench.lane import BenchFailed
from tests.bench.world import World
from tests.helpers.kafka import Raw
from tests.helpers.streams import Account, denial, registration

from faregate.events.topics import TOPICS, apply_topics, topic_name
from faregate.streams import NAMES, SOURCES, Options
from faregate.streams.worker import make

ACCOUNTS = 200
DOMAINS = 50
TIMEOUT_S = 120.0
_LOOK_S = 0.005
_rounds = count(1)


async def streams(world: World) -> dict[str, Figure]:
    """Measure every stream in a process of its own, with the event loop that it really has."""
    words = (world.kafka, f"streams-{next(_rounds)}.", str(world.sizes.streams))
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.bench.streams", *words, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await child.communicate()
    if child.returncode != 0:
        raise BenchFailed(f"the streams ended with {child.returncode}")
    found: dict[str, tuple[int, float]] = json.loads(out)
    return {f"streams_{name}_per_s": rate(n, seconds) for name, (n, seconds) in found.items()}


async def _measure(kafka: str, prefix: str, n: int) -> dict[str, tuple[int, float]]:
    wanted = {topic for sources in SOURCES.values() for topic in sources}
    signals = [topic for name, topic in TOPICS.items() if name.startswith("signals.")]
    topics = [*(TOPICS[name] for name in sorted(wanted)), *signals]
    await apply_topics(kafka, prefix=prefix, topics=topics)
    fed = _records(n)
    for topic, records in fed.items():
        raws = [events.Raw(r.key or b"", r.value or b"", list(r.headers)) for r in records]
        await events.produce(kafka, topic_name(prefix, topic), raws)
    found = {}
    for name in NAMES:
        total = sum(len(fed[topic]) for topic in SOURCES[name])
        with tempfile.TemporaryDirectory(prefix="faregate-bench-") as directory:
            options = Options(kafka, prefix, Path(directory), fraud_registrations=10**9)
            found[name] = total, await _run(name, options, total)
    return found


async def _run(name: str, options: Options, total: int) -> float:
    (stream,) = await make([name], options)
    await stream.app.start()
    try:
        async with asyncio.timeout(TIMEOUT_S):
            while not stream.reader.read_:
                await asyncio.sleep(_LOOK_S)
            began = perf_counter()
            while stream.reader.read_ < total:
                await asyncio.sleep(_LOOK_S)
            return perf_counter() - began
    finally:
        await stream.app.stop()


def _records(n: int) -> dict[str, list[Raw]]:
    accounts = [Account(f"org:bench-{number}") for number in range(ACCOUNTS)]
    ledger = [account.grant(1_000_000) for account in accounts]
    for number in range(n - 2 * ACCOUNTS):
        user, phase = f"u{number % 20}", ("nlp", "cj_assessment")[number % 2]
        ledger.append(accounts[number % ACCOUNTS].usage(0.5, user_id=user, phase=phase))
    return {
        "credits.ledger": ledger,
        "credits.checkpoints": [account.checkpoint() for account in accounts],
        "pipeline.denied": [denial(f"org:bench-{number % ACCOUNTS}") for number in range(n)],
        "users.registered": list(_registrations(n)),
    }


def _registrations(n: int) -> Iterable[Raw]:
    for number in range(n):
        email = f"u{number}@domain-{number % DOMAINS}.example"
        yield registration(f"bench-{number}", email=email)


def _main(arguments: list[str]) -> None:
    kafka, prefix, n = arguments
    found: dict[str, Any] = asyncio.run(_measure(kafka, prefix, int(n)))
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    _main(sys.argv[1:])
