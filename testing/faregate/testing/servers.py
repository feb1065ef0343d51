"""The servers of a run, and installations of Faregate on them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faregate.runtime.processes import ALWAYS
from faregate.testing.backends import Runner, runner
from faregate.testing.choosing import BackEnd
from faregate.testing.installation import Installation, installed
from faregate.testing.places import Place, shared
from faregate.testing.processes import ALL_IN_ONE


@dataclass(frozen=True, slots=True)
class Servers:
    """The Kafka and PostgreSQL of this run, and what runs them."""

    runner: Runner
    place: Place
    shared: bool
    """Whether other workers of the run, or other people, use them too."""


@contextmanager
def serving(
    name: BackEnd, run: Path | None, *, image: str | None = None, wheel: str | None = None
) -> Iterator[Servers]:
    """Run the servers for the length of the block; `run` is what the workers of a run share."""
    how = runner(name, image=image, wheel=wheel)
    with shared(run, how.start) as place:
        yield Servers(how, place, run is not None or name == "external")


@contextmanager
def installed_alone(
    servers: Servers, *, separate: bool, own_servers: bool, **settings: Any
) -> Iterator[Installation]:
    """Install Faregate for one test. `separate`: each process by itself, so that it can be killed.

    `own_servers`: on servers that nobody else uses meanwhile, so that they can be restarted: new
    ones where the run's are shared.
    """
    names = ALWAYS if separate else (ALL_IN_ONE,)
    place, is_shared = servers.place, servers.shared
    with ExitStack() as resources:
        if own_servers and is_shared:
            place, end = servers.runner.start()
            resources.callback(end)
            is_shared = False
        yield resources.enter_context(
            installed(
                servers.runner,
                place,
                names=names,
                shared_servers=is_shared,
                alone=True,
                **settings,
            )
        )
