"""Ports of containers on the machine of the engine: on its loopback interface where that is ours.

They are chosen by us, because a port that the engine chooses changes when a container is restarted.
"""

from __future__ import annotations

from typing import Any

from testcontainers.core.container import DockerContainer

from faregate.runtime.stack.processes import HOST, pick_port

_OURS = {"localhost", HOST}


def bind(container: DockerContainer, port: int) -> None:
    """Map a port of the container to a free one."""
    mapped: dict[str, Any] = container.ports
    mapped.pop(str(port), None)
    free = pick_port()
    ours = container.get_docker_client().host() in _OURS
    mapped[f"{port}/tcp"] = (HOST, free) if ours else free
