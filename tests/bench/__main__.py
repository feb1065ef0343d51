"""`make bench`: measure, print, write `.bench/latest.json`, compare with `bench/baseline.json`."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import uvloop
from rich.console import Console
from tests.bench import drains, figures, gateways, latencies, stores, streams, visits
from tests.bench.figures import Figure
from tests.bench.machine import machine, versions
from tests.bench.table import render
from tests.bench.world import QUICK, Sizes, World

from faregate.runtime import stack

ROOT = Path(__file__).parents[2]
BASELINE = ROOT / "bench" / "baseline.json"
LATEST = ROOT / ".bench" / "latest.json"

Measure = Callable[[World], Awaitable[dict[str, Figure]]]

MEASURES: Mapping[str, Measure] = {
    "deductions": drains.deductions,
    "copy": stores.copy_limit,
    "rich": drains.rich,
    "rich-copy": stores.rich_copy_limit,
    "naive": drains.naive,
    "rival": drains.rival,
    "keys": drains.many_keys,
    "hot": drains.hot_account,
    "echo": latencies.echo,
    "echo-latency": latencies.echo_latency,
    "decision-latency": latencies.decision_latency,
    "store-keys": stores.many_keys,
    "pairs": stores.pairs,
    "http-noop": gateways.noop,
    "http": gateways.calls,
    "http-beside": gateways.beside,
    "http-models": visits.models,
    "http-sign-in": visits.sign_ins,
    "streams": streams.streams,
}
"""In the order of each round: what is compared runs close to each other."""

console = Console(stderr=True)


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="figures are medians of so many")
    parser.add_argument("--quick", action="store_true", help="a smoke run: one small round")
    parser.add_argument("--only", action="append", choices=list(MEASURES), help="may be repeated")
    parser.add_argument("--keys", type=int, help="keys present for the measures with many keys")
    parser.add_argument("--strict", action="store_true", help="exit 1 on a regression")
    parser.add_argument("--output", type=Path, default=LATEST, help="where the JSON goes")
    return parser.parse_args(given)


async def measure(world: World, names: Sequence[str], rounds: int) -> dict[str, list[Figure]]:
    """Run every measure once in each round, so that what is compared shares its troubles."""
    found: dict[str, list[Figure]] = {}
    for number in range(1, rounds + 1):
        for name in names:
            world.say(f"round {number} of {rounds}: {name}")
            for figure, value in (await MEASURES[name](world)).items():
                found.setdefault(figure, []).append(value)
    return found


async def run(options: argparse.Namespace) -> tuple[dict[str, Any], dict[str, str], Any]:
    """Start servers of our own and measure on them."""
    sizes = QUICK if options.quick else Sizes()
    sizes = replace(sizes, keys=options.keys or sizes.keys)
    rounds = 1 if options.quick else options.rounds
    where = {**machine(), "rounds": rounds, "quick": options.quick, "keys": sizes.keys}
    with console.status("starting the servers") as status, stack.running() as servers:
        world = World(servers.kafka, servers.database, sizes, status.update)
        connection = await asyncpg.connect(servers.database)
        postgres = await connection.fetchval("SHOW server_version")
        await connection.close()
        found = await measure(world, options.only or list(MEASURES), rounds)
    return where, versions(postgres), found


def main() -> int:
    """Measure and report. Exit 1 with --strict when a ratio got worse than the baseline's."""
    options = arguments()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # new topics, not yet led
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        where, with_what, rounds = runner.run(run(options))
    results = figures.summarise(rounds)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(figures.to_json(where, with_what, results) + "\n")
    baseline = figures.read(BASELINE)
    worse = figures.regressions(results, baseline)
    Console().print(render(where, with_what, results, rounds, baseline))
    for line in figures.missed(results):
        console.print(f"[yellow]below target[/] {line}")
    for line in worse:
        console.print(f"[red]regression[/] {line}")
    return 1 if worse and options.strict else 0


if __name__ == "__main__":
    sys.exit(main())
