"""Quotas: how many calls a user may make in a period (contract: Tiers).

An LLM call counts, whoever pays for it and also with the caller's own key; so does a pipeline
request that names no org, once, whatever usage it brings. The period is that of the tier.
"""

from __future__ import annotations

from datetime import datetime

from faregate.ledger.core.accounts import PERIOD, counted
from faregate.ledger.core.model import Quota
from faregate.ledger.core.posting import Work
from faregate.ledger.core.renewal import tier_of


def limit(work: Work, user: str) -> int | None:
    """Give how many calls a user may make in a period; None: as many as they like."""
    plan = work.state.accounts[user].plan
    return plan.call_limit if plan.call_limit is not None else tier_of(work, plan.tier).calls


def is_used_up(work: Work, user: str) -> bool:
    """Tell whether one call more would be too many."""
    allowed = limit(work, user)
    return allowed is not None and work.state.accounts[user].plan.calls >= allowed


def resets_at(work: Work, user: str) -> datetime:
    """Give the end of the running period."""
    return (work.state.accounts[user].plan.period_start or work.now) + PERIOD


def standing(work: Work, user: str) -> Quota:
    """Give where a user stands."""
    return Quota(limit(work, user), work.state.accounts[user].plan.calls, resets_at(work, user))


def count(work: Work, user: str) -> int:
    """Count one call; give 1, for the outcome that it belongs to."""
    work.put_plan(user, counted(work.state.accounts[user].plan, work.now))
    return 1
