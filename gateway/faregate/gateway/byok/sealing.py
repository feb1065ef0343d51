"""Sealing of secrets: AES-256-GCM under a data key of each secret, wrapped by the master key.

Everything is bound to its place (owner, provider, version) as associated data, so a sealed value
that was moved to another row does not open. Nonces are random, 96 bits; a data key seals once.
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from hmac import digest

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 32
_NONCE_BYTES = 12


class MasterKeyError(ValueError):
    """A master key that cannot be one. The message never has the key."""


class Unsealable(Exception):
    """A sealed value does not open: another master key sealed it, or it was changed or moved."""


@dataclass(frozen=True, slots=True)
class MasterKey:
    """A key that wraps data keys; `id` is its fingerprint and tells nothing about it."""

    id: str
    raw: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a secret belongs."""

    owner: str
    provider: str
    version: int

    def bound(self, what: str) -> bytes:
        """Give the associated data for `what` at this place."""
        return json.dumps(["faregate.byok", what, self.owner, self.provider, self.version]).encode()


@dataclass(frozen=True, slots=True)
class Sealed:
    """A secret at rest."""

    sealed: bytes
    data_key: bytes
    master_id: str


def master_key(text: str) -> MasterKey:
    """Read a master key: 32 bytes in base64 (also URL-safe). Raises MasterKeyError."""
    plain = text.strip().replace("-", "+").replace("_", "/")
    try:
        raw = base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except ValueError:
        raise MasterKeyError("a master key is 32 random bytes in base64") from None
    if len(raw) != KEY_BYTES:
        raise MasterKeyError(f"a master key has 32 bytes, this one {len(raw)}")
    return MasterKey(sha256(b"faregate.master-key-id\0" + raw).hexdigest()[:16], raw)


def new_master_key() -> str:
    """Make a master key, as it is written in settings."""
    return base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()


def seal(master: MasterKey, place: Place, secret: str) -> Sealed:
    """Seal a secret for its place, under a new data key."""
    data_key = AESGCM.generate_key(KEY_BYTES * 8)
    sealed = _encrypted(data_key, secret.encode(), place.bound("secret"))
    return Sealed(sealed, _encrypted(master.raw, data_key, place.bound("data key")), master.id)


def unseal(masters: Sequence[MasterKey], place: Place, sealed: Sealed) -> str:
    """Open a secret with whichever of `masters` wrapped it. Raises Unsealable."""
    data_key = _data_key(masters, place, sealed)
    return _decrypted(data_key, sealed.sealed, place.bound("secret")).decode()


def rewrap(old: MasterKey, new: MasterKey, place: Place, sealed: Sealed) -> Sealed:
    """Wrap the data key with another master key; the secret itself is not touched or opened.

    Raises Unsealable.
    """
    data_key = _data_key([old], place, sealed)
    return Sealed(sealed.sealed, _encrypted(new.raw, data_key, place.bound("data key")), new.id)


def fingerprint(master: MasterKey, secret: str) -> str:
    """Give what tells whether a secret is the same again, and nothing without the master key."""
    key = digest(master.raw, b"faregate.byok.fingerprint", "sha256")
    return digest(key, secret.encode(), "sha256").hex()


def _data_key(masters: Sequence[MasterKey], place: Place, sealed: Sealed) -> bytes:
    for master in masters:
        if master.id == sealed.master_id:
            return _decrypted(master.raw, sealed.data_key, place.bound("data key"))
    raise Unsealable(f"sealed under the master key {sealed.master_id}, which is not set here")


def _encrypted(key: bytes, plain: bytes, bound: bytes) -> bytes:
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, plain, bound)


def _decrypted(key: bytes, whole: bytes, bound: bytes) -> bytes:
    try:
        return AESGCM(key).decrypt(whole[:_NONCE_BYTES], whole[_NONCE_BYTES:], bound)
    except (InvalidTag, ValueError):
        raise Unsealable("a sealed key was changed, or belongs to another place") from None
