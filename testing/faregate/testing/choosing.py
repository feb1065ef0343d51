"""Which back end runs Kafka, PostgreSQL and Faregate for a suite, and why that one."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from faregate.testing.patience import patient

BackEnd = Literal["testcontainers", "embedded", "external"]
WANTED = ("auto", "testcontainers", "embedded", "external")
VARIABLES = ("FAREGATE_KAFKA", "FAREGATE_DATABASE")
"""Where the servers of `external` are; the database URL is an administrator's."""

_SOCKETS = (Path("/var/run/docker.sock"), Path("/run/podman/podman.sock"))
_PORT, _PROBE_S = 2375, 5.0


class NoBackEnd(Exception):
    """What was asked for cannot be had; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A back end, and the reason to say in pytest's header."""

    name: BackEnd
    why: str


def choose(
    wanted: str,
    environment: Mapping[str, str] = os.environ,
    engine: Callable[[], str | None] | None = None,
) -> Choice:
    """Choose: what is wanted, or with `auto` outside URLs, then a container engine, then embedded.

    `engine` gives the version of the container engine that answers, None where none does. Raises
    NoBackEnd.
    """
    given = [name for name in VARIABLES if environment.get(name)]
    if wanted == "external" or (wanted == "auto" and given):
        missing = [name for name in VARIABLES if name not in given]
        if missing:
            too = " too" if given else ""
            needed = f"outside servers need {' and '.join(VARIABLES)}"
            raise NoBackEnd(f"{needed}: set {' and '.join(missing)}{too}")
        return Choice("external", f"{' and '.join(VARIABLES)} are set")
    if wanted == "embedded":
        return Choice("embedded", "asked for")
    version = (engine or container_engine)()
    if version is not None:
        return Choice("testcontainers", f"container engine {version} answers")
    if wanted == "testcontainers":
        raise NoBackEnd(
            "no container engine answers at DOCKER_HOST or its default socket: start one, or use "
            "--faregate-stack=embedded"
        )
    return Choice("embedded", "neither outside servers nor a container engine")


def container_engine() -> str | None:
    """Give the version of the container engine that answers; None if there is none."""
    if not os.environ.get("DOCKER_HOST") and not any(map(_exists, _places())):
        return None  # without a look at any library
    from docker.errors import DockerException
    from testcontainers.core.docker_client import DockerClient, get_docker_host

    try:
        if not _listens(get_docker_host() or f"unix://{_SOCKETS[0]}"):
            return None
        client = DockerClient(timeout=int(patient(_PROBE_S))).client
        try:
            return str(client.version()["Version"])
        finally:
            client.close()
    except (DockerException, OSError, ValueError):
        return None


def _listens(host: str) -> bool:
    """Tell whether somebody listens there; what is neither a socket nor TCP is taken to."""
    address = urlsplit(host)
    if address.scheme == "unix":
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(patient(_PROBE_S))
            return probe.connect_ex(address.path) == 0
    if address.scheme in {"tcp", "http", "https"} and address.hostname:
        with socket.create_connection((address.hostname, address.port or _PORT), patient(_PROBE_S)):
            return True
    return True


def _places() -> list[Path]:
    """Give where an engine, or the choice of one, may be found."""
    own = os.environ.get("XDG_RUNTIME_DIR")
    home = Path.home() / ".docker"
    return [*_SOCKETS, home / "config.json", *([Path(own) / "docker.sock"] if own else [])]


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False
