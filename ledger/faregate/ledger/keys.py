"""Keyed hashes: how the ledger remembers identifiers without keeping them (rules 4 and 5)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

from pydantic_core import to_json

_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def grouped(digest: bytes | bytearray) -> str:
    """Write 16 bytes as a UUID is written; `str(uuid.UUID(...))` takes thrice as long."""
    text = digest.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


class Keys:
    """Makes the 16-byte keyed hashes of one ledger from its secret `hash_key`.

    Each kind of key has its own BLAKE2b personalisation, and parts are length-prefixed, so no two
    different things share a key by construction.
    """

    def __init__(self, hash_key: bytes) -> None:
        self._base = {
            kind: blake2b(digest_size=16, key=hash_key, person=kind)
            for kind in (
                b"event",
                b"usage",
                b"pipeline",
                b"batch",
                b"subject",
                b"content",
                b"admin",
                b"seal",
            )
        }

    def _hash(self, kind: bytes, *parts: str) -> bytes:
        digest = self._base[kind].copy()
        for part in parts:
            raw = part.encode()
            digest.update(len(raw).to_bytes(4, "big"))
            digest.update(raw)
        return digest.digest()

    def event(self, source: str, event_id: str) -> bytes:
        """Key of an event: (`source`, `id`)."""
        return self._hash(b"event", source, event_id)

    def usage(self, source: str, usage_id: str) -> bytes:
        """Key of a piece of usage: (`source`, `usage_id`)."""
        return self._hash(b"usage", source, usage_id)

    def pipeline(self, pipeline_id: str) -> bytes:
        """Key of a pipeline."""
        return self._hash(b"pipeline", pipeline_id)

    def batch(self, batch_id: str) -> bytes:
        """Key of a batch of items."""
        return self._hash(b"batch", batch_id)

    def subject(self, subject: str) -> bytes:
        """Commit to an account's subject; it outlives an erasure."""
        return self._hash(b"subject", subject)

    def grant(self, account: str, number: int) -> str:
        """Name a grant to the outside: the same for ever, and it tells nothing."""
        return grouped(self.internal("grant", account, str(number)))

    def actor(self, actor: str) -> bytes:
        """Commit to who did an administrative act; it outlives an erasure."""
        return self.internal("actor", actor)

    def internal(self, *parts: str) -> bytes:
        """Key of a command that the engine gives itself (a sweep, a late charge)."""
        return self._hash(b"admin", *parts)

    def late_charge(self, event_key: bytes) -> bytes:
        """Key of the charge of usage that was kept without a price; `event_key` is the usage's."""
        return self.internal("charge", event_key.hex())

    def seal(self, *columns: object) -> bytes:
        """Seal a row: keyed hash over its columns (ASCII texts, whole numbers, None), in order."""
        return self._hash(b"seal", to_json(columns).decode())

    def fingerprint(self, event_type: str, data: Mapping[str, Any]) -> bytes:
        """Fingerprint of an event's content: `type` + `data` in canonical form (sorted keys)."""
        return self._hash(b"content", event_type, _CANONICAL.encode(data))
