"""The hash chain of an account: SHA-256 over every column of every entry (rule 5).

An entry's hash covers the hash before it (32 zero bytes for the first), a version byte and each
column in the order of COLUMNS. Numbers are fixed-width, texts length-prefixed, NULL has a mark of
its own: two different rows never encode alike. `seal` writes it and `verify` reads it back with
the same function.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache, partial
from hashlib import sha256
from typing import Any

from faregate.ledger.core.accounts import EPOCH

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
    "grants",
    "priority",
    "expires_at",
    "tier",
    "alert",
)
"""Columns under the chain, in hashing (and COPY) order; `hash` follows them."""

GENESIS = bytes(32)
_VERSION = b"\x01"
_NUMBERS = struct.Struct(">11q").pack
_FIRST_TEXT, _END = COLUMNS.index("kind"), len(COLUMNS)
_NULL = b"\xff\xff\xff\xff"


def entry_hash(previous: bytes, row: Sequence[Any]) -> bytes:
    """Hash one entry. `row` holds the columns of COLUMNS in order (a trailing hash is ignored)."""
    head = _NUMBERS(*row[:3], _micros(row[3]), *row[4:_FIRST_TEXT])
    parts = [
        _NULL if value is None else _encoder(type(value), _uuid)(value)
        for value in row[_FIRST_TEXT:_END]
    ]
    return sha256(_VERSION + previous + head + b"".join(parts)).digest()


def _micros(moment: datetime) -> int:
    since = moment - EPOCH  # to divide it by a microsecond takes longer
    return since.days * 86_400_000_000 + since.seconds * 1_000_000 + since.microseconds


def _prefixed(raw: bytes) -> bytes:
    return len(raw).to_bytes(4, "big") + raw


_TIME = struct.Struct(">Icq").pack
_UUID = _prefixed(b"u" + bytes(16))[:5]
_FLAGS = {True: _prefixed(b"\x01"), False: _prefixed(b"\x00")}


# Few different texts and numbers come again and again: kinds, phases, models, price versions.
@lru_cache(1024)
def _text(value: str) -> bytes:
    return _prefixed(b"s" + value.encode())


@lru_cache(1024)
def _integer(value: int) -> bytes:
    return _prefixed(b"i" + value.to_bytes(8, "big", signed=True))


def _moment(value: datetime) -> bytes:
    return _TIME(9, b"t", _micros(value))


# So many numbers, with what stands before them, are packed at once.
@lru_cache(64)
def _list_of(count: int) -> Callable[..., bytes]:
    return partial(struct.Struct(f">Ic{count}q").pack, 8 * count + 1, b"l")


def _integers(values: Sequence[int]) -> bytes:
    return _list_of(len(values))(*values)


def _uuid(value: Any) -> bytes:
    """Encode a UUID; the driver has a class of its own for them."""
    raw: bytes = value.bytes
    return _UUID + raw


_ENCODERS: Mapping[type, Callable[[Any], bytes]] = {
    str: _text,
    int: _integer,
    bool: _FLAGS.__getitem__,
    datetime: _moment,
    list: _integers,
}
_encoder = _ENCODERS.get
