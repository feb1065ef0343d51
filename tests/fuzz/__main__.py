"""`make fuzz MINUTES=60`: call every route of `schemas/openapi.json` with other values each time."""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys

from tests.fuzz.place import KINDS, place
from tests.fuzz.run import fuzz
from tests.helpers.servers import drop_database, fresh_database, servers, shared_home

SHARES = {kind: 1 if kind == "nobody" else 3 for kind in KINDS}
"""Of the time: without a token there is less to be found."""


async def run(minutes: float, seed: int, kinds: list[str]) -> int:
    """Give each kind of caller its share of the time; 1 where something was found."""
    stack, wrong = servers(), 0
    all_of_it = sum(SHARES[kind] for kind in kinds)
    database = await fresh_database(stack.database)
    try:
        async with place(stack, database) as here:
            for kind in kinds:
                share_s = max(1, round(minutes * 60 * SHARES[kind] / all_of_it))
                print(f"\n==> {kind}, {share_s} s, seed {seed}", flush=True)
                options = ("--seed", str(seed), "--max-time", str(share_s))
                code, said = await fuzz(here, kind, "--generation-database", "none", *options)
                print(said, flush=True)
                wrong |= code != 0
            for route, statuses in sorted((await here.answered()).items()):
                print(f"{route}: {dict(sorted(statuses.items()))}")
            faults = await here.faults()
            for fault in faults:
                print(f"fault: {fault}")
    finally:
        await drop_database(stack.database, database)
    print("something was found" if wrong or faults else "nothing was found")
    return 1 if wrong or faults else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, help="that of a run before, to see it again")
    parser.add_argument("--as", action="append", dest="kinds", choices=KINDS)
    chosen = parser.parse_args()
    seed = secrets.randbelow(2**31) if chosen.seed is None else chosen.seed
    with shared_home():
        return asyncio.run(run(chosen.minutes, seed, chosen.kinds or list(KINDS)))


if __name__ == "__main__":
    sys.exit(main())
