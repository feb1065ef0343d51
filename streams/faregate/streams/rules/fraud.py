"""What looks unusual about how users come and use their trial. A person decides what it means.

Groups count registrations per hour: a dict with `n`, `users` (the newest LISTED) and `ids`.
A trial is `[granted, since, spent, sequence, said]`. A link is who sent a user.
"""

from collections.abc import Sequence
from typing import Any
from uuid import NAMESPACE_URL, uuid5

HOUR = 3600
LISTED = 50
REMEMBERED = 256
"""Registrations remembered per group and hour, to leave repeats out."""
LONGEST_RING = 8
"""Users in the longest ring that is looked for."""

Group = dict[str, Any]
Trial = Sequence[Any]


def domain_of(email: str | None) -> str | None:
    """Give the domain of an address, in lower case."""
    _, at, domain = (email or "").rpartition("@")
    return domain.lower() if at and domain else None


def user_of(referral: str | None) -> str | None:
    """Give the user whom a referral names (`user:<id>`), or None: then it is a campaign."""
    if referral and referral.startswith("user:") and len(referral) > len("user:"):
        return referral
    return None


def joined(old: Group | None, identity: str, user: str) -> Group:
    """Count a registration, once: a repeat gives the group as it was (the same object)."""
    group = old or {"n": 0, "users": [], "ids": []}
    if identity in group["ids"]:
        return group
    return {
        "n": group["n"] + 1,
        "users": [*(u for u in group["users"] if u != user), user][-LISTED:],
        "ids": [*group["ids"], identity][-REMEMBERED:],
    }


def is_worth_saying(count: int, limit: int) -> bool:
    """Tell whether to say that a group has so many: beyond the limit, and then now and again."""
    return count > limit and (count - limit - 1) % max(limit // 2, 1) == 0


def began(sequence: int, granted: int, at: float) -> list[Any]:
    """Begin to watch a trial: its welcome grant, when, and nothing spent yet."""
    return [granted, at, 0, sequence, False]


def spent(
    trial: Trial, sequence: int, charged: int, at: float, *, within_s: float, percent: int
) -> tuple[list[Any] | None, bool]:
    """Count a charge against a trial; give the trial (None: no longer watched) and if to say it.

    A trial is watched for `within_s`; drained means `percent` of what was granted.
    """
    granted, since, total, upto, said = trial
    if sequence <= upto:
        return list(trial), False
    if at - since > within_s:
        return None, False
    total += charged
    drained = not said and total * 100 >= granted * percent
    return [granted, since, total, sequence, said or drained], drained


def ring(path: Sequence[str], sender: str | None) -> tuple[list[str] | None, list[str] | None]:
    """Go one step along who sent whom: give the ring that closes, or the path to go on with.

    `path` is a user, who sent them, who sent those, and so on; `sender` sent the last one.
    """
    if sender is None:
        return None, None
    if sender == path[0]:
        return list(path), None
    if sender in path or len(path) >= LONGEST_RING:
        return None, None
    return None, [*path, sender]


def case_id(rule: str, *about: object) -> str:
    """Name a suspicion, the same at every time it comes up."""
    return str(uuid5(NAMESPACE_URL, "\n".join(("faregate", rule, *map(str, about)))))
