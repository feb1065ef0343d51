"""The hash chain of an account: SHA-256 over every column of every entry (rule 5).

An entry's hash covers the hash before it (32 zero bytes for the first), a version byte and each
column in the order of COLUMNS. Numbers are fixed-width, texts length-prefixed, NULL has a mark of
its own: two different rows never encode alike. `seal` writes it and `verify` reads it back with
the same function.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
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
    parts = [
        _NULL if value is None else _ENCODERS.get(type(value), _uuid)(value)
        for value in row[_FIRST_TEXT : len(COLUMNS)]
    ]
    return sha256(b"".join([_VERSION, previous, head, *parts])).digest()


def _prefixed(raw: bytes) -> bytes:
    return len(raw).to_bytes(4, "big") + raw


_TIME = _prefixed(b"t" + bytes(8))[:5]
_UUID = _prefixed(b"u" + bytes(16))[:5]
_TRUE, _FALSE = _prefixed(b"\x01"), _prefixed(b"\x00")


# Few different texts and numbers come again and again: kinds, phases, models, price versions.
@lru_cache(1024)
def _text(value: str) -> bytes:
    return _prefixed(b"s" + value.encode())


@lru_cache(1024)
def _integer(value: int) -> bytes:
    return _prefixed(b"i" + value.to_bytes(8, "big", signed=True))


def _moment(value: datetime) -> bytes:
    number: int = (value - EPOCH) // _MICROSECOND
    return _TIME + number.to_bytes(8, "big", signed=True)


def _flag(value: bool) -> bytes:
    return _TRUE if value else _FALSE


def _uuid(value: Any) -> bytes:
    """Encode a UUID; the driver has a class of its own for them."""
    raw: bytes = value.bytes
    return _UUID + raw


_ENCODERS: Mapping[type, Callable[[Any], bytes]] = {
    str: _text,
    int: _integer,
    bool: _flag,
    datetime: _moment,
}
