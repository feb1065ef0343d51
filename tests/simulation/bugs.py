"""The list of bugs that the simulation must catch, each planted alone.

It comes from the money rules, not from what the checks happen to see; `make simulate ARGS=--bugs`
shows how soon each one is found.
"""

from tests.simulation import bugs_of_holds, bugs_of_identity, bugs_of_payers
from tests.simulation.operations import make_history
from tests.simulation.planting import BUGS, Bug
from tests.simulation.play import play

LISTS = (bugs_of_identity, bugs_of_payers, bugs_of_holds)


def caught_at(bug: Bug, histories: int, first: int = 0) -> tuple[int, str] | None:
    """Plant a bug: how many histories it takes to find it, and what is found; None: it is not."""
    with bug.plant():
        for n in range(histories):
            broke = play(make_history(first + n))
            if broke is not None:
                return n + 1, broke
    return None


__all__ = ["BUGS", "LISTS", "Bug", "caught_at"]
