"""What is kept of a run: flows, their steps, what was checked, called, and what it took."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

Status = Literal["passed", "failed", "partial", "not_run"]
"""`partial`: what could be checked holds, and something could not be; `why` says what."""

STATUSES: tuple[Status, ...] = ("passed", "failed", "partial", "not_run")
Where = Literal["http", "ledger"]


@dataclass(slots=True)
class Call:
    """One call of the gateway. Secrets are masked in what was sent and answered.

    `status` is None where no answer came; `timed` names the row of the table of timings.
    """

    method: str
    path: str
    sent: Any
    correlation_id: str
    timed: str | None = None
    status: int | None = None
    answer: Any = None
    ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Check:
    """Something that was claimed: what was expected, what came, by which call."""

    what: str
    expected: Any
    came: Any
    ok: bool
    where: Where
    call: Call | None = None


@dataclass(slots=True)
class Balance:
    """An account in credits: over HTTP before and after a step, and in the ledger after it."""

    account: str
    before: float | None
    after: float | None = None
    ledger: float | None = None


@dataclass(slots=True)
class StepResult:
    """How one step went. `why` says what could not be done, or why nothing was."""

    name: str
    title: str
    began: datetime
    status: Status = "passed"
    why: list[str] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    balances: list[Balance] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def failures(self) -> list[Check]:
        """The claims that do not hold."""
        return [check for check in self.checks if not check.ok]

    def settle(self) -> None:
        """Say how it went, from what was checked and what could not be."""
        if self.failures:
            self.status = "failed"
        elif self.why:
            self.status = "partial" if self.checks else "not_run"


@dataclass(slots=True)
class FlowResult:
    """How one flow went."""

    name: str
    title: str
    steps: list[StepResult] = field(default_factory=list)

    @property
    def status(self) -> Status:
        """Failed if a step is; passed or not run if all are; else partial."""
        found = {step.status for step in self.steps}
        if "failed" in found:
            return "failed"
        return found.pop() if len(found) == 1 else "partial"

    @property
    def seconds(self) -> float:
        """How long its steps took."""
        return sum(step.seconds for step in self.steps)


@dataclass(frozen=True, slots=True)
class Timing:
    """One row of the table: calls that were made one after the other, in milliseconds.

    `ok` is None where there were none.
    """

    name: str
    what: str
    limit_ms: float
    n: int
    within: int
    p50_ms: float | None
    p95_ms: float | None
    max_ms: float | None
    ok: bool | None


@dataclass(slots=True)
class Report:
    """A whole run."""

    url: str
    version: str
    began: datetime
    ledger: bool
    """Whether the ledger's database was looked at."""
    flows: list[FlowResult] = field(default_factory=list)
    timings: list[Timing] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def steps(self) -> list[tuple[FlowResult, StepResult]]:
        """All steps, each with its flow."""
        return [(flow, step) for flow in self.flows for step in flow.steps]

    @property
    def counts(self) -> dict[Status, int]:
        """How many steps went how."""
        found = Counter(step.status for _, step in self.steps)
        return {status: found[status] for status in STATUSES}

    @property
    def ok(self) -> bool:
        """Whether no step failed, and at least one was made."""
        counts = self.counts
        return not counts["failed"] and bool(counts["passed"] or counts["partial"])

    @property
    def status(self) -> Status:
        """The whole run in one word."""
        return FlowResult("", "", [step for _, step in self.steps]).status


def failed_of(steps: Iterable[tuple[FlowResult, StepResult]]) -> list[tuple[str, str, Check]]:
    """List the claims that do not hold, with the names of flow and step."""
    return [(f.name, s.name, check) for f, s in steps for check in s.failures]
