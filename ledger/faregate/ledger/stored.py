"""Grants, plans and pins as they are kept in rows: JSON, without what is default.

Times are microseconds since 1970, so that what is read is exactly what was written.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from faregate.ledger.core.accounts import EPOCH, NO_PLAN, Grant, Plan
from faregate.ledger.core.model import Pins

_MICROSECOND = timedelta(microseconds=1)
_JSON = json.JSONEncoder(separators=(",", ":"))
_DEFAULTS = {f.name: getattr(NO_PLAN, f.name) for f in fields(Plan)}
_TUPLES = ("alerted", "milestones", "withheld")


def _micros(moment: datetime | None) -> int | None:
    return None if moment is None else (moment - EPOCH) // _MICROSECOND


def _moment(micros: int | None) -> datetime | None:
    return None if micros is None else EPOCH + timedelta(microseconds=micros)


def grants_text(grants: Sequence[Grant]) -> str:
    """Write live grants, in burn order."""
    # By hand, like pins: whole numbers only, and an encoder costs several times as much.
    return f"[{','.join([_grant_text(g) for g in grants])}]"


def _grant_text(g: Grant) -> str:
    expires = "null" if g.expires_at is None else _micros(g.expires_at)
    return f"[{g.number},{g.remaining},{g.held},{g.priority},{expires}]"


def grants_of(text: str) -> tuple[Grant, ...]:
    """Read what `grants_text` wrote."""
    if text == "[]":
        return ()
    return tuple([Grant(n, r, h, p, _moment(at)) for n, r, h, p, at in json.loads(text)])


@lru_cache(4096)
def plan_text(plan: Plan) -> str:
    """Write what of a plan is not default."""
    values: dict[str, Any] = {}
    for name, default in _DEFAULTS.items():
        value = getattr(plan, name)
        if value != default:
            values[name] = _micros(value) if isinstance(value, datetime) else value
    return _JSON.encode(values)


@lru_cache(4096)
def plan_of(text: str) -> Plan:
    """Read what `plan_text` wrote."""
    if text == "{}":
        return NO_PLAN
    values = json.loads(text)
    if "period_start" in values:
        values["period_start"] = _moment(values["period_start"])
    for name in _TUPLES:
        if name in values:
            values[name] = tuple(values[name])
    return Plan(**values)


def pins_text(pins: Pins) -> str:
    """Write the parts of grants that a hold has pinned."""
    return f"[{','.join([f'[{number},{part}]' for number, part in pins])}]"


def pins_of(text: str) -> Pins:
    """Read what `pins_text` wrote."""
    return () if text == "[]" else tuple([(number, part) for number, part in json.loads(text)])
