"""Where the servers of a run are, and how they are shared by the workers of pytest-xdist."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from faregate.runtime.stack.processes import alive, exclusive, identity
from faregate.runtime.stack.state import write_private

_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Place:
    """Where the servers are: for the suite, and (`inside_…`) for Faregate's own processes.

    `database` is an administrator's URL. `home` is the embedded stack's; `network`,
    `kafka_container` and `postgres_container` name what containers are made of.
    """

    kafka: str
    database: str
    inside_kafka: str
    inside_database: str
    home: str = ""
    network: str = ""
    kafka_container: str = ""
    postgres_container: str = ""


Start = Callable[[], tuple[Place, Callable[[], None]]]
"""Starts the servers; gives where they are, and what ends them."""


@contextmanager
def shared(run: Path | None, start: Start) -> Iterator[Place]:
    """Give the servers of a run. Whoever comes first starts them, and ends them as the last one.

    `run` is a directory that the workers of the run share; None: there are no others.
    """
    if run is None:
        place, end = start()
        try:
            yield place
        finally:
            end()
        return
    note, kept = run / f"user-{os.getpid()}", run / "place.json"
    mine: Callable[[], None] | None = None
    with exclusive(run / "lock"):
        write_private(note, {"pid": os.getpid(), "started": identity(os.getpid())})
        if kept.exists():
            place = Place(**json.loads(kept.read_text()))
        else:
            place, mine = start()
            write_private(kept, asdict(place))
    try:
        yield place
    finally:
        note.unlink(missing_ok=True)
        if mine is not None:
            _end_last(run, mine)


def _end_last(run: Path, end: Callable[[], None]) -> None:
    """End what we have started once nobody uses it any more."""
    while True:
        with exclusive(run / "lock"):
            if not any(map(_in_use, run.glob("user-*"))):
                (run / "place.json").unlink()
                end()
                return
        time.sleep(_POLL_S)


def _in_use(note: Path) -> bool:
    try:
        user = json.loads(note.read_text())
    except (FileNotFoundError, ValueError):
        return False
    return alive(user["pid"], user["started"])
