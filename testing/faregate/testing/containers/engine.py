"""The container engine, spoken to with the kit's patience; what does not start says why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from docker.errors import APIError, NotFound
from testcontainers.core.container import DockerContainer
from testcontainers.core.docker_client import DockerClient
from testcontainers.core.waiting_utils import WaitStrategy, WaitStrategyTarget

from faregate.testing.patience import patient

ANSWERS_S = 120
STARTS_S = 120
_POLL_S = 0.2
_ALIVE = {"created", "running", "restarting", "paused"}
_TAIL_LINES = 60
_UNSURE = (APIError, OSError)
"""What the engine answers, or its client raises, while nothing is known (requests' errors are OSErrors)."""


class NotStarted(Exception):
    """A container ended, or was not ready in time; the message ends with its log."""


def client_options() -> dict[str, Any]:
    """Give what a client of the engine is made with.

    Its own 60 s are short where a disk stands still while a container is made.
    """
    return {"timeout": int(patient(ANSWERS_S))}


def make_client() -> Any:
    """Connect to the engine; close it after use."""
    return DockerClient(**client_options()).client


class Ready(WaitStrategy):
    """Waits until `check` says of a container that it is ready."""

    def __init__(self, name: str, check: Callable[[WaitStrategyTarget], bool]) -> None:
        """`check` may raise APIError or OSError while the engine cannot tell yet."""
        super().__init__()
        self.with_poll_interval(_POLL_S)
        self._name = name
        self._check = check

    def wait_until_ready(self, container: WaitStrategyTarget) -> None:
        """Raise NotStarted when it has ended, or is not ready in time."""
        within_s = int(patient(STARTS_S))
        self.with_startup_timeout(within_s)
        why = f"was not ready after {within_s} s"

        def settled() -> bool:
            nonlocal why
            said = ""
            try:
                if self._check(container):
                    why = ""
                    return True
            except _UNSURE as error:
                said = f" ({getattr(error, 'explanation', None) or error})"
            try:
                container.reload()
            except NotFound:
                why = f"is gone{said}"
                return True
            except _UNSURE:
                return False
            if container.status not in _ALIVE:
                why = f"ended while it was started{said}"
                return True
            return False

        self._poll(settled)
        if why:
            raise NotStarted(f"the container of {self._name} {why}:\n{_tail_of(container)}")


def log_of(container: WaitStrategyTarget) -> str:
    """Give what a container has logged."""
    return b"".join(container.get_logs()).decode(errors="replace")


def _tail_of(container: WaitStrategyTarget) -> str:
    try:
        return "\n".join(log_of(container).splitlines()[-_TAIL_LINES:])
    except _UNSURE as error:
        return f"(its log cannot be read: {error})"


def succeeds(container: DockerContainer, *command: str) -> bool:
    """Run a command in a container; say whether it ended with 0."""
    return container.exec(list(command)).exit_code == 0
