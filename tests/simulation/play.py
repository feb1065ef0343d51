"""Play a history and say what broke; find the part of it that is enough to break it."""

import re
from collections.abc import Sequence

from tests.simulation.checks import Invariants
from tests.simulation.operations import History, Operation
from tests.simulation.rest import check_rest
from tests.simulation.world import World


def play(history: History) -> str | None:
    """Play a history to its end. Give what broke; None: everything held."""
    world = World(history)
    invariants = Invariants(world)
    world.checkers.append(invariants)
    at = "at rest"
    try:
        for n, operation in enumerate(history.operations, 1):
            at = f"operation {n} {operation}"
            world.play(operation)
        at = "at rest"
        world.drain()
        check_rest(world, invariants)
    except Exception as e:  # noqa: BLE001 - whatever it is, it is a finding
        return f"{at}: {type(e).__name__}: {e}"
    finally:
        world.close()
    return None


def kind_of(broke: str | None) -> str | None:
    """What of a failure stays the same in a shorter history."""
    if broke is None:
        return None
    return re.sub(
        r"[a-z]+:[a-z/]+|[0-9.]+|\W", " ", re.sub(r"^(operation .*?\)|at rest): ", "", broke)
    )[:60]


def shrink(history: History, tries: int = 1_500) -> History:
    """Leave out operations as long as it breaks alike: halves first, then smaller parts."""
    kind = kind_of(play(history))
    best: Sequence[Operation] = history.operations
    size = max(len(best) // 2, 1)
    while size and tries > 0:
        start, smaller = 0, False
        while start < len(best) and tries > 0:
            less = [*best[:start], *best[start + size :]]
            tries -= 1
            if kind_of(play(history._replace(operations=less))) == kind:
                best, smaller = less, True
            else:
                start += size
        size = size if smaller and size == 1 else size // 2
    return history._replace(operations=best)


def report(history: History, broke: str) -> str:
    """What a person needs: what broke, in how few operations, and how to see it again."""
    small = shrink(history)
    lines = [
        f"seed {history.seed}: {broke}",
        f"shrunk to {len(small.operations)} operations (setting {small.setting}), which end with",
        f"  {play(small)}",
        *(f"  {operation!r}," for operation in small.operations),
        f"again: make simulate SEED={history.seed} HISTORIES=1",
    ]
    return "\n".join(lines)
