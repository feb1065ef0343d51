"""The kit waits as long as it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from time import monotonic

import pytest

from faregate.testing import patience
from faregate.testing.processes import ProcessFailed, Signal, wait_ready


@pytest.fixture(autouse=True)
def untold() -> Iterator[None]:
    """Take back what a test has told."""
    yield
    patience.tell(None)


def test_without_a_word_waits_are_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(patience.VARIABLE, raising=False)
    assert patience.patient(10) == 10


def test_the_environment_says_it_and_an_option_says_it_louder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(patience.VARIABLE, "2.5")
    assert patience.patient(10) == 25
    patience.tell(3)
    assert patience.patient(10) == 30


@pytest.mark.parametrize("text", ["0", "0.5", "-3", "much", "nan", "inf", "101"])
def test_nonsense_is_refused_by_its_name(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(patience.VARIABLE, text)
    with pytest.raises(ValueError, match=rf"^{patience.VARIABLE}: .* from 1 to 100, not '{text}'"):
        patience.patient(10)


class Silent:
    """A process that never gets ready."""

    def start(self, name: str, env: Mapping[str, str] | None = None) -> None: ...

    def send(self, name: str, what: Signal) -> None: ...

    def running(self, name: str) -> bool:
        return bool(name)

    def log(self, name: str) -> str:
        return f"{name} thinks"

    def names(self) -> list[str]:
        return ["relay"]

    async def stop(self, *names: str) -> None: ...


def test_a_wait_is_longer_and_says_how_long_it_was() -> None:
    patience.tell(4)
    began = monotonic()
    with pytest.raises(ProcessFailed, match=r"(?s)was not ready after 0\.4 s:\nrelay thinks"):
        asyncio.run(wait_ready(Silent(), "", "relay", timeout_s=0.1))
    assert monotonic() - began >= 0.4
