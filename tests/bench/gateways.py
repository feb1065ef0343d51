"""The HTTP gateway, as its callers find it: a real process, called over real connections.

At once: a hundred callers, each of whom calls again as soon as the answer is there. Paced: a call
is due every so often, and its time counts from when it was due.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter

from tests.bench import callers
from tests.bench.callers import gateway, other, tokens
from tests.bench.client import Client, Connection, Timed, all_at_once, paced, request, value_of
from tests.bench.figures import Figure, percentile, rate
from tests.bench.lane import BenchFailed, Ends, at_rest, modules, started
from tests.bench.world import Sizes, World

CALLERS = 100
BATCH_CALLERS = 8
HOLDS_PER_S = 500
HOLDERS = 500
EVENTS_PER_S = 5_000
_LEDGER = "credits.ledger"
_FEED = "tests.bench.feed"
_WORKERS = {"FAREGATE_GATEWAY_WORKERS": "2"}
"""Two gateway processes: on four cores they leave room for PostgreSQL and for who calls."""

Call = Callable[[Connection], Awaitable[object]]


async def noop(world: World) -> dict[str, Figure]:
    """Call FastAPI that does nothing: the yardstick for what follows."""
    lane = await world.lane("http")
    asked = request("POST", "/noop", None, {})
    async with other(lane, "tests.bench.noop") as client:
        timed = await _at_once(client, [lambda c: c.call(asked)] * CALLERS, world.sizes.http_s)
    return {"http_noop_per_s": rate(len(timed.times), timed.spent)}


async def calls(world: World) -> dict[str, Figure]:
    """Let a hundred users check, deduct, reserve and settle at once; then hold at a steady pace."""
    lane, seconds = await world.lane("http"), world.sizes.http_s
    mine = await tokens(lane, _users(HOLDERS))
    first = mine[:CALLERS]
    async with gateway(lane, _WORKERS) as client:
        await callers.warm(client, mine)
        checked = await _at_once(client, [_repeated(callers.check(t)) for t in first], seconds)
        deducted = await _at_once(client, [_made(callers.deduct, t) for t in first], seconds)
        single = await all_at_once(client, CALLERS, _pairs(first), seconds)
        many = await all_at_once(client, BATCH_CALLERS, _batches(first), seconds)
        await at_rest(lane)
        held = await _paced_holds(client, mine, world.sizes)
    pairs = len(many.times) // 2 * callers.BATCH
    return {
        **_figures("http_check", checked),
        **_figures("http_deduct", deducted),
        "http_hold_calls_per_s": rate(len(single.times), single.spent),
        "http_pairs_per_s": rate(pairs, many.spent),
        **_latencies("http_hold", held),
    }


async def beside(world: World) -> dict[str, Figure]:
    """Hold credits 500 times a second, while the consumers drain 5,000 events a second.

    Both are about the same accounts. One gateway process, as many as there are unless it is set
    otherwise: 500 calls a second leave it half of a core.
    """
    lane, sizes = await world.lane("http"), world.sizes
    mine = await tokens(lane, _users(HOLDERS))
    fed = round(EVENTS_PER_S * (sizes.paced_s + 2 * sizes.warm_s))
    async with (
        gateway(lane) as client,
        started(lane, "relay", "deduction") as (relay, deduction),
        modules(lane, _FEED, [(str(fed), str(EVENTS_PER_S))]) as (feed,),
        Ends(lane.kafka, lane.cluster.topic(_LEDGER)) as ends,
    ):
        await relay.logged("relay_started")
        await deduction.logged("assigned")
        await callers.warm(client, mine)
        await feed.logged("assigned")
        before = await _settled(ends)
        await at_rest(lane)
        feed.go()
        begin = perf_counter()
        await asyncio.sleep(sizes.warm_s)
        timed = await _paced_holds(client, mine, sizes)
        sent = await feed.logged("done")
        made = len(timed.times) + round(HOLDS_PER_S * sizes.warm_s)
        drained = await ends.reach(before + fed + made)
    return {
        **_latencies("http_hold_beside", timed),
        "http_beside_drained_per_s": rate(fed, max(sent, drained) - begin),
    }


async def _settled(ends: Ends) -> int:
    """Wait until nothing is left to be announced of what was before; give the total."""
    total = -1
    while total != (now := await ends.total()):
        total = now
        await asyncio.sleep(0.3)
    return total


async def _paced_holds(client: Client, mine: Sequence[str], sizes: Sizes) -> Timed:
    warm = round(HOLDS_PER_S * sizes.warm_s)
    n = warm + round(HOLDS_PER_S * sizes.paced_s)
    timed = await paced(
        client, [callers.reserve(mine[i % len(mine)]) for i in range(n)], HOLDS_PER_S
    )
    return Timed(timed.times[warm:], sizes.paced_s)


def _users(n: int) -> list[str]:
    return [f"u{i}" for i in range(n)]


def _repeated(asked: bytes) -> Call:
    return lambda connection: connection.call(asked)


def _made(make: Callable[[str], bytes], token: str) -> Call:
    return lambda connection: connection.call(make(token))


async def _at_once(client: Client, calls: Sequence[Call], seconds: float) -> Timed:
    async def script(
        connection: Connection, number: int, running: Callable[[], bool]
    ) -> list[float]:
        times, call = [], calls[number]
        while running():
            begin = perf_counter()
            await call(connection)
            times.append(perf_counter() - begin)
        return times

    return await all_at_once(client, len(calls), script, seconds)


def _pairs(mine: Sequence[str]) -> Callable[..., Awaitable[list[float]]]:
    """Reserve, then settle, in turn."""

    async def script(
        connection: Connection, number: int, running: Callable[[], bool]
    ) -> list[float]:
        times, token = [], mine[number]
        while running():
            begin = perf_counter()
            held = await connection.call(callers.reserve(token))
            middle = perf_counter()
            await connection.call(callers.settle(token, value_of(held, "hold_id")))
            times += [middle - begin, perf_counter() - middle]
        return times

    return script


def _batches(mine: Sequence[str]) -> Callable[..., Awaitable[list[float]]]:
    """Reserve a hundred times in one call, then settle all of them in one call."""

    async def script(
        connection: Connection, number: int, running: Callable[[], bool]
    ) -> list[float]:
        times, token = [], mine[number]
        while running():
            begin = perf_counter()
            held = value_of(await connection.call(callers.reserve_many(token)), "results")
            middle = perf_counter()
            hold_ids = [one["hold_id"] for one in held]
            done = value_of(await connection.call(callers.settle_many(token, hold_ids)), "results")
            if not all("entry_id" in one for one in done):
                raise BenchFailed(f"not every hold was settled: {done[:3]}")
            times += [middle - begin, perf_counter() - middle]
        return times

    return script


def _figures(name: str, timed: Timed) -> dict[str, Figure]:
    return {f"{name}_per_s": rate(len(timed.times), timed.spent), **_latencies(name, timed)}


def _latencies(name: str, timed: Timed, *percents: int) -> dict[str, Figure]:
    ms = [1000 * t for t in timed.times]
    return {
        f"{name}_p{p}_ms": Figure(percentile(ms, p), "ms", len(ms), timed.spent)
        for p in percents or (50, 95, 99)
    }
