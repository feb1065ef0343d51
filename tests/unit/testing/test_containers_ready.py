"""A container that will not start is given up at once, with its log; one that is slow is waited for."""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic
from typing import Any

import pytest
from docker.errors import APIError, NotFound
from requests.exceptions import ReadTimeout

from faregate.testing.containers import engine
from faregate.testing.containers.engine import NotStarted, Ready


class Container:
    """A container whose next states are known."""

    def __init__(self, *states: str | Exception) -> None:
        self._states = iter(states)
        self.status = "created"

    def reload(self) -> None:
        state = next(self._states, self.status)
        if isinstance(state, Exception):
            raise state
        self.status = state

    def get_logs(self) -> tuple[bytes, bytes]:
        return b"starting\n", b"no such directory\n"

    def get_wrapped_container(self) -> Any:
        return self

    def get_container_host_ip(self) -> str:
        return "localhost"

    def get_exposed_port(self, port: int) -> int:
        return port


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for long."""
    monkeypatch.setattr(engine, "STARTS_S", 1)
    monkeypatch.setattr(engine, "_POLL_S", 0.01)


def test_one_that_has_ended_is_not_waited_for() -> None:
    began = monotonic()
    with pytest.raises(NotStarted, match=r"(?s)of Kafka ended while .*starting\nno such directory"):
        Ready("Kafka", lambda _: False).wait_until_ready(Container("running", "exited"))
    assert monotonic() - began < 0.9


def test_what_the_engine_says_of_one_that_has_ended_is_told() -> None:
    def ask(_: object) -> bool:
        raise APIError("409 Conflict", explanation="container is not running")

    with pytest.raises(NotStarted, match=r"ended while it was started \(container is not running"):
        Ready("Kafka", ask).wait_until_ready(Container("exited"))


def test_one_that_is_not_ready_in_time_is_given_up_with_its_log() -> None:
    with pytest.raises(NotStarted, match=r"(?s)was not ready after 1 s:.*no such directory"):
        Ready("Kafka", lambda _: False).wait_until_ready(Container("running"))


def test_the_engine_may_need_more_than_one_question() -> None:
    answers: Iterator[APIError | bool] = iter([APIError("not yet"), False, True])

    def ask(_: object) -> bool:
        answer = next(answers)
        if isinstance(answer, APIError):
            raise answer
        return answer

    Ready("Kafka", ask).wait_until_ready(Container("running"))
    assert next(answers, None) is None


def test_one_that_is_gone_is_not_waited_for() -> None:
    gone = Container("running", NotFound("no such container"))
    with pytest.raises(NotStarted, match="the container of Kafka is gone"):
        Ready("Kafka", lambda _: False).wait_until_ready(gone)


@pytest.mark.parametrize("error", [APIError("500"), ReadTimeout("slow"), ConnectionError("cut")])
def test_an_engine_that_does_not_answer_once_is_asked_again(error: Exception) -> None:
    answers: Iterator[Exception | bool] = iter([error, False, False, True])

    def ask(_: object) -> bool:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    Ready("Kafka", ask).wait_until_ready(Container("running", error, "running"))
    assert next(answers, None) is None
