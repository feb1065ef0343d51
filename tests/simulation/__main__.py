"""`make simulate`: play random histories on all cores, shrink what breaks, show how to see it again.

python -m tests.simulation --seed 0 --histories 20000 --operations 200 --jobs 2
python -m tests.simulation --seed 123 --histories 1    # one history again
python -m tests.simulation --bugs                      # how soon each planted bug is found
"""

import argparse
import gc
import os
import sys
import time
from collections.abc import Iterator
from multiprocessing import get_context

from tests.simulation.bugs import BUGS, caught_at
from tests.simulation.operations import make_history
from tests.simulation.play import play, report

CHUNK = 50
MOST_REPORTS = 5


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of the first history")
    parser.add_argument("--histories", type=int, default=20_000)
    parser.add_argument("--operations", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--bugs", action="store_true", help="plant each bug of the list instead")
    args = parser.parse_args()
    if args.bugs:
        return show_bugs()
    return simulate(args.seed, args.histories, args.operations, args.jobs)


def simulate(seed: int, histories: int, operations: int, jobs: int) -> int:
    started, done, broken = time.monotonic(), 0, 0
    for failures in _played(seed, histories, operations, jobs):
        done = min(done + CHUNK, histories)
        for failed, broke in failures:
            broken += 1
            if broken <= MOST_REPORTS:
                print(report(make_history(failed, operations), broke), flush=True)
        if sys.stderr.isatty():
            print(f"\r{done} of {histories} histories, {broken} broken", end="", file=sys.stderr)
    seconds = time.monotonic() - started
    print(
        f"{histories} histories of {operations} operations from seed {seed}: {broken} broken; "
        f"{seconds:.1f} s on {jobs} processes, {histories / seconds / jobs:.0f} histories/s each"
    )
    return 1 if broken else 0


def _played(
    seed: int, histories: int, operations: int, jobs: int
) -> Iterator[list[tuple[int, str]]]:
    chunks = [
        (first, min(CHUNK, seed + histories - first), operations)
        for first in range(seed, seed + histories, CHUNK)
    ]
    if jobs == 1 or len(chunks) == 1:
        yield from map(play_chunk, chunks)
        return
    with get_context("fork").Pool(jobs) as pool:
        yield from pool.imap_unordered(play_chunk, chunks)


def play_chunk(chunk: tuple[int, int, int]) -> list[tuple[int, str]]:
    """Play some histories in a row; give the seeds of those that broke, and how."""
    first, histories, operations = chunk
    failures = []
    gc.disable()  # a tenth of the time; what a chunk leaves is collected at its end
    for seed in range(first, first + histories):
        broke = play(make_history(seed, operations))
        if broke is not None:
            failures.append((seed, broke))
    gc.enable()
    gc.collect()
    return failures


def show_bugs() -> int:
    missed = 0
    for bug in BUGS:
        started = time.monotonic()
        found = caught_at(bug, histories=2_000)
        seconds = time.monotonic() - started
        after, what = found or (0, "NOT CAUGHT")
        missed += found is None
        print(f"{bug.name}: history {after}, {seconds:.2f} s: {what[:100]}", flush=True)
    print(f"{len(BUGS) - missed} of {len(BUGS)} bugs are caught")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
