"""What `verify` is given and gives: checkpoints, findings, the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

KEPT_PER_KIND = 100
"""How many findings of one kind are listed; all are counted."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What was announced about an account outside of the database; amounts are micro-credits.

    `epoch` is the number of restores from a backup that were known when it was announced.
    """

    account: str
    sequence: int
    balance: int
    held: int
    debt: int
    chain_head: bytes
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it must be. `row` names the row: table, account, sequence, id."""

    kind: str
    table: str
    row: str
    message: str


@dataclass(frozen=True, slots=True)
class Report:
    """What was checked and what was found. `findings` lists at most 100 of a kind.

    `findings_total` counts them all, `notes` is for information and never drift.
    """

    entries: int
    accounts: int
    checkpoints: int
    superseded: int
    """Checkpoints of entries that were written anew after a restore: not compared."""
    findings: list[Finding]
    findings_total: int
    notes: dict[str, Any]
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return self.findings_total == 0

    def as_json(self) -> dict[str, Any]:
        """Give the report as one JSON object."""
        return {"ok": self.ok, **asdict(self)}


@dataclass(frozen=True, slots=True)
class _Found:
    kind: str
    table: str
    where: str
    message: str
    account_id: int | None


@dataclass(slots=True)
class Findings:
    """Collects findings in bounded memory; accounts get their subjects at the end."""

    _kept: list[_Found] = field(default_factory=list)
    _counts: Counter[str] = field(default_factory=Counter)

    def add(
        self, kind: str, table: str, where: str, message: str, account_id: int | None = None
    ) -> None:
        """Add a finding. `where` names the row within its table and, if given, its account."""
        self._counts[kind] += 1
        if self._counts[kind] <= KEPT_PER_KIND:
            self._kept.append(_Found(kind, table, where, message, account_id))

    def count_more(self, kind: str, more: int) -> None:
        """Count findings that a query found and did not list."""
        self._counts[kind] += more

    @property
    def total(self) -> int:
        """How many there were."""
        return self._counts.total()

    def accounts(self) -> Iterable[int]:
        """List the accounts that are to be named."""
        return {f.account_id for f in self._kept if f.account_id is not None}

    def named(self, subjects: Mapping[int, str]) -> list[Finding]:
        """Give the findings with their accounts' names; an account without one keeps its id."""
        return [Finding(f.kind, f.table, _row(f, subjects), f.message) for f in self._kept]


def _row(found: _Found, subjects: Mapping[int, str]) -> str:
    parts = [found.table]
    if found.account_id is not None:
        name = subjects.get(found.account_id, f"#{found.account_id}")
        parts.append(f"account {name}")
    return " ".join([*parts, found.where]).rstrip()
