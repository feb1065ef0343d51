"""Outcome bodies: subjects become account numbers when stored, and back when read.

So no identifier of a person is in a row that can never be changed (rule 5).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def _map(body: Mapping[str, Any], convert: Callable[[Any], Any]) -> dict[str, Any]:
    mapped = dict(body)
    for key in ("payer", "account"):
        if mapped.get(key) is not None:
            mapped[key] = convert(mapped[key])
    if "considered" in mapped:
        mapped["considered"] = [{**c, "payer": convert(c["payer"])} for c in mapped["considered"]]
    if "debts" in mapped:
        mapped["debts"] = [convert(p) for p in mapped["debts"]]
    return mapped


def to_stored(body: Mapping[str, Any], ids: Mapping[str, int]) -> dict[str, Any]:
    """Replace subjects by account ids."""
    return _map(body, ids.__getitem__)


def to_public(body: Mapping[str, Any], subjects: Mapping[int, str]) -> dict[str, Any]:
    """Replace account ids by subjects."""
    return _map(body, subjects.__getitem__)


def accounts_in(body: Mapping[str, Any]) -> set[int]:
    """List the account ids that a stored body names."""
    found: set[int] = set()
    _map(body, found.add)
    return found
