"""Whether what was announced about an account adds up: entries among themselves, and checkpoints.

What is kept of an account is a dict: `seq` (the last entry seen) and `sums` after it, `recent`
(the newest entries: `[sequence, content hash, balance, held, debt]`), `missing` (sequences that
were skipped) and `ahead` (checkpoints that entries have not reached yet: `[sequence, balance,
held, debt, time]`). An entry older than `recent` that comes again cannot be compared.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from json import dumps
from typing import Any

RECENT = 64
"""Entries remembered per account to compare repeats and checkpoints with."""
MISSING = 1000
"""Skipped sequences remembered per account."""
AHEAD = 16
"""Checkpoints per account that wait for their entry."""

State = dict[str, Any]
Sums = tuple[int, int, int]
"""Balance, held and debt in micro-credits."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What one announced entry says; `moves` and `after` are balance, held, debt."""

    sequence: int
    content: str
    moves: Sums
    after: Sums


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that does not add up."""

    problem: str
    sequence: int
    through: int | None = None
    expected: Sums | None = None
    found: Sums | None = None


def content_hash(data: Mapping[str, Any]) -> str:
    """Hash what an entry says. A replay after a restore says the same at another time."""
    said = {k: v for k, v in data.items() if k != "at"}
    return blake2b(dumps(said, sort_keys=True).encode(), digest_size=8).hexdigest()


def entry(old: State | None, new: Entry) -> tuple[State, list[Finding]]:
    """Take in an entry; give the state after it and what is wrong. A repeat gives `old` itself.

    The first entry that is seen of an account is taken as it is, unless it is its first one: the
    topic may have been cut off before it.
    """
    if old is None or not old["seq"]:
        waiting = old["ahead"] if old else []
        findings = _wrong_sum((0, 0, 0), new) if new.sequence == 1 else []
        return _reach({"missing": [], "ahead": waiting, "recent": []}, new, findings)
    if new.sequence <= old["seq"]:
        return _again(old, new)
    last = old["seq"]
    if new.sequence == last + 1:
        return _reach(old, new, _wrong_sum(tuple(old["sums"]), new))
    gap = Finding("gap", last + 1, new.sequence - 1)
    skipped = [*old["missing"], *range(max(last + 1, new.sequence - MISSING), new.sequence)]
    return _reach({**old, "missing": skipped[-MISSING:]}, new, [gap])


def _wrong_sum(before: Sums, new: Entry) -> list[Finding]:
    balance, held, debt = (b + m for b, m in zip(before, new.moves, strict=True))
    expected = (balance, held, debt)
    if expected == new.after:
        return []
    return [Finding("wrong_sum", new.sequence, None, expected, new.after)]


def _again(old: State, new: Entry) -> tuple[State, list[Finding]]:
    known = next((r for r in old["recent"] if r[0] == new.sequence), None)
    if known is None:
        if new.sequence in old["missing"]:  # it came late
            return {**old, "missing": [n for n in old["missing"] if n != new.sequence]}, []
        return old, []
    if known[1] == new.content:
        return old, []
    finding = Finding("repeat_differs", new.sequence, None, _sums(known[2:]), new.after)
    # From here on the newer story is followed: one divergence is one alert.
    kept = [r for r in old["recent"] if r[0] < new.sequence]
    return _reach({**old, "recent": kept}, new, [finding])


def _reach(base: State, new: Entry, findings: list[Finding]) -> tuple[State, list[Finding]]:
    recent = [*base["recent"], [new.sequence, new.content, *new.after]][-RECENT:]
    state = {
        "seq": new.sequence,
        "sums": list(new.after),
        "recent": recent,
        "missing": base["missing"],
        "ahead": [c for c in base["ahead"] if c[0] > new.sequence],
    }
    for sequence, *sums, _time in base["ahead"]:
        if sequence == new.sequence:
            findings = findings + _differs(sequence, new.after, _sums(sums))
    return state, findings


def checkpoint(
    old: State | None, sequence: int, sums: Sums, at: float
) -> tuple[State, list[Finding]]:
    """Take in a checkpoint; give the state after it and what is wrong.

    One that is ahead of the entries waits for them. One older than what is remembered is passed.
    """
    state = old or {"seq": 0, "sums": [0, 0, 0], "recent": [], "missing": [], "ahead": []}
    if sequence > state["seq"]:
        if any(c[0] == sequence for c in state["ahead"]):
            return state, []
        return {**state, "ahead": [*state["ahead"], [sequence, *sums, at]][-AHEAD:]}, []
    if not sequence:
        return state, _differs(0, (0, 0, 0), sums)
    known = next((r for r in state["recent"] if r[0] == sequence), None)
    return state, _differs(sequence, _sums(known[2:]), sums) if known else []


def _differs(sequence: int, announced: Sums, said: Sums) -> list[Finding]:
    if announced == said:
        return []
    return [Finding("checkpoint_differs", sequence, None, said, announced)]


def overdue(state: State, before: float) -> list[Finding]:
    """List the checkpoints from before a time that the entries have not reached."""
    return [
        Finding("not_announced", sequence, None, _sums(sums), _sums(state["sums"]))
        for sequence, *sums, at in state["ahead"]
        if at < before
    ]


def _sums(values: Any) -> Sums:
    balance, held, debt = values
    return balance, held, debt
