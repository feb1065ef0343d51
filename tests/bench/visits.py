"""Calls of the gateway that come one by one: each is paced, far from what it could do.

What they take is compared with figures from the field; 95 of 100 are to be faster than those.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from uuid import uuid4

from tests.bench import callers
from tests.bench.callers import gateway, other, tokens
from tests.bench.client import Client, Timed, paced
from tests.bench.figures import Figure, percentile
from tests.bench.upstream import upstream
from tests.bench.world import World

PER_S = 100
SLOW_PER_S = 10
"""Sign-ins and registrations: a password takes some 30 ms of a core."""
_USERS = 50


async def models(world: World) -> dict[str, Figure]:
    """Call models: what the gateway adds to the time of the upstream.

    As with paced holds, the first second is not counted: sessions with the database begin in it.
    """
    lane, n = await world.lane("http"), world.sizes.visits
    members = [f"m{i}" for i in range(_USERS)]
    await callers.make_members(lane, members)
    mine = await tokens(lane, [f"u{i}" for i in range(_USERS)])
    keyless = await tokens(lane, [f"u{i}" for i in range(_USERS, 2 * _USERS)])
    orgs = await tokens(lane, members)
    async with (
        upstream() as port,
        Client(port) as straight,
        gateway(lane, callers.with_upstream(port)) as client,
    ):
        await callers.warm(client, [*mine, *keyless, *orgs])
        looked = await _rounds(client, keyless, n, _with_own_key, 400)
        for token in mine:
            await client.call(callers.put_key(token))
        await _rounds(client, mine, round(PER_S * world.sizes.warm_s), callers.chat)
        upstream_s = median((await _rounds(straight, mine, n, callers.chat)).times)
        timed = {
            "http_org_check": await _rounds(client, orgs, n, callers.check),
            "http_byok_detection": looked,
            "http_tracking": _less(await _rounds(client, mine, n, callers.chat), upstream_s),
            "http_byok": _less(await _rounds(client, mine, n, _with_own_key), upstream_s),
        }
    return {f"{name}_p95_ms": _p95(found) for name, found in timed.items()}


async def sign_ins(world: World) -> dict[str, Figure]:
    """Register and sign in, and register where that makes no credit account."""
    lane, n = await world.lane("http"), world.sizes.slow_visits
    async with gateway(lane) as client, other(lane, "tests.bench.bare") as bare:
        first, second = _addresses(n), _addresses(n)
        with_account = await paced(client, [callers.register(a) for a in first], SLOW_PER_S)
        without = await paced(bare, [callers.register(a) for a in second], SLOW_PER_S)
        signed_in = await paced(client, [callers.sign_in(a) for a in first], SLOW_PER_S)
    account_ms = 1000 * (median(with_account.times) - median(without.times))
    return {
        "http_sign_in_p95_ms": _p95(signed_in),
        "http_register_p95_ms": _p95(with_account),
        "http_register_account_ms": Figure(max(account_ms, 0.001), "ms", n, with_account.spent),
    }


def _with_own_key(token: str) -> bytes:
    return callers.chat(token, own_key=True)


def _addresses(n: int) -> list[str]:
    return [f"{uuid4().hex}@example.com" for _ in range(n)]


async def _rounds(
    client: Client, tokens_: Sequence[str], n: int, make: Callable[[str], bytes], *expected: int
) -> Timed:
    asked = [make(tokens_[i % len(tokens_)]) for i in range(n)]
    return await paced(client, asked, PER_S, *expected)


def _less(timed: Timed, seconds: float) -> Timed:
    return Timed([max(t - seconds, 0.0) for t in timed.times], timed.spent)


def _p95(timed: Timed) -> Figure:
    ms = [1000 * t for t in timed.times]
    return Figure(percentile(ms, 95), "ms", len(ms), timed.spent)
