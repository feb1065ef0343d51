"""The hash chain of an account: SHA-256 over every column of every entry (rule 5).

An entry's hash covers the hash before it (32 zero bytes for the first), a version byte and each
column in the order of COLUMNS. Numbers are fixed-width, texts length-prefixed, NULL has a mark of
its own: two different rows never encode alike. `seal` writes it and `verify` reads it back with
the same function.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

from faregate.ledger.core.model import EPOCH

COLUMNS = (
    "id",
    "account_id",
    "sequence",
    "at",
    "amount",
    "held_delta",
    "debt_delta",
    "balance",
    "held",
    "debt",
    "outcome_id",
    "kind",
    "cause",
    "hold_id",
    "user_id",
    "org_id",
    "price_version",
    "phase",
    "provider",
    "model",
    "units",
    "input_tokens",
    "output_tokens",
    "byok",
    "occurred_at",
    "reason",
)
"""Columns under the chain, in hashing (and COPY) order; `hash` follows them."""

GENESIS = bytes(32)
_VERSION = b"\x01"
_NUMBERS = struct.Struct(">11q")
_FIRST_TEXT = COLUMNS.index("kind")
_NULL = b"\xff\xff\xff\xff"
_MICROSECOND = timedelta(microseconds=1)


def entry_hash(previous: bytes, row: Sequence[Any]) -> bytes:
    """Hash one entry. `row` holds the columns of COLUMNS in order (a trailing hash is ignored)."""
    head = _NUMBERS.pack(*row[:3], (row[3] - EPOCH) // _MICROSECOND, *row[4:_FIRST_TEXT])
    parts = [_VERSION, previous, head]
    parts.extend(_encode(value) for value in row[_FIRST_TEXT : len(COLUMNS)])
    return sha256(b"".join(parts)).digest()


def _encode(value: Any) -> bytes:
    if value is None:
        return _NULL
    raw: bytes
    kind = type(value)
    if kind is int:
        raw = b"i" + value.to_bytes(8, "big", signed=True)
    elif kind is str:
        raw = b"s" + value.encode()
    elif kind is bool:
        raw = b"\x01" if value else b"\x00"
    elif kind is datetime:
        raw = b"t" + ((value - EPOCH) // _MICROSECOND).to_bytes(8, "big", signed=True)
    else:
        raw = b"u" + value.bytes
    return len(raw).to_bytes(4, "big") + raw
