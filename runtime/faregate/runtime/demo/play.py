"""Who plays in the story, what it is told with, and what it came to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from time import monotonic
from typing import Any

from faregate.events import TOPIC_OF_TYPE, EventData, PublishedRecord
from faregate.runtime.demo.client import Client, Unexpected
from faregate.runtime.demo.installation import Installation
from faregate.runtime.demo.screen import Screen

ITEMS = 10
PAIRS = ITEMS * (ITEMS - 1) // 2
GRANTED = 10_000


@dataclass(frozen=True, slots=True)
class Cast:
    """Bare ids; a suffix keeps runs apart that share a ledger."""

    org: str
    user: str
    batch: str
    nlp: str
    assessment: str

    @classmethod
    def called(cls, suffix: str) -> Cast:
        """Name everybody."""
        end = f"-{suffix}" if suffix else ""
        return cls(f"acme{end}", f"alice{end}", f"essays{end}", f"nlp-1{end}", f"assess-1{end}")

    @property
    def subjects(self) -> tuple[str, str]:
        """The two accounts: org, user."""
        return f"org:{self.org}", f"user:{self.user}"

    def who(self) -> dict[str, Any]:
        """Give the fields that say on whose behalf."""
        return {"user_id": self.user, "org_id": self.org}


@dataclass(slots=True)
class StepResult:
    """How one step went; `facts` are what it saw."""

    name: str
    heading: str
    ok: bool
    seconds: float
    facts: dict[str, Any]


@dataclass(slots=True)
class Summary:
    """The whole story for programs (--json). Amounts are credits."""

    ok: bool = True
    seconds: float = 0.0
    failed_step: str | None = "set_up"
    error: str | None = None
    steps: list[StepResult] = field(default_factory=list)
    balances: dict[str, dict[str, Any]] = field(default_factory=dict)
    topics: dict[str, int] = field(default_factory=dict)
    processes: dict[str, int] = field(default_factory=dict)
    home: str | None = None
    kept: bool = False

    def as_json(self) -> dict[str, Any]:
        """Give it as one JSON object."""
        return asdict(self)


@dataclass(slots=True)
class Play:
    """Everything that a step works with. `topics` counts what was published and what came back."""

    client: Client
    installation: Installation
    cast: Cast
    screen: Screen
    summary: Summary
    before: dict[str, dict[str, Any]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    published: Counter[str] = field(default_factory=Counter)

    async def publish(
        self, data: EventData, what: str | None = None, id_: str | None = None
    ) -> PublishedRecord:
        """Publish an event and, with `what`, show it."""
        sent = await self.client.publish(data, id_)
        kind = type(data).__name__
        self.published[kind] += 1
        if what is not None:
            self.screen.sent(TOPIC_OF_TYPE[kind], kind, what)
        return sent

    def came(self, data: EventData, what: str) -> None:
        """Show an event that came back."""
        kind = type(data).__name__
        self.screen.came(TOPIC_OF_TYPE[kind], kind, what)


Step = Callable[[Play], Awaitable[None]]


async def perform(play: Play, steps: dict[str, tuple[str, Step]]) -> None:
    """Play the steps in order and keep how each went. Raises Unexpected when one fails."""
    for number, (name, (heading, step)) in enumerate(steps.items(), start=1):
        play.screen.step(number, heading)
        begun, play.facts = monotonic(), {}
        result = StepResult(name, heading, ok=False, seconds=0.0, facts=play.facts)
        play.summary.steps.append(result)
        play.summary.failed_step = name  # until it has not
        try:
            await step(play)
        except Unexpected:
            raise
        except Exception as error:
            raise Unexpected(f"{type(error).__name__}: {error}") from error
        finally:
            result.seconds = round(monotonic() - begun, 2)
        result.ok, play.summary.failed_step = True, None
