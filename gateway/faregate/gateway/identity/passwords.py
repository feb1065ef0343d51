"""Passwords: argon2id, in threads, a bounded number at once."""

from __future__ import annotations

import asyncio
import os
from secrets import token_urlsafe

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError, VerifyMismatchError

MIN_CHARS, MAX_CHARS = 8, 1024
_HASHER = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)
"""The OWASP minimum for argon2id: 19 MiB, two passes; about 30 ms."""


class Passwords:
    """Hashes and checks passwords; for an unknown user it takes as long as for a known one."""

    def __init__(self) -> None:
        self._slots = asyncio.Semaphore(max(2, os.cpu_count() or 2))
        self._nobody = _HASHER.hash(token_urlsafe(16))

    async def hash(self, password: str) -> str:
        """Hash a new password."""
        async with self._slots:
            return await asyncio.to_thread(_HASHER.hash, password)

    async def matches(self, stored: str | None, password: str) -> bool:
        """Tell whether a password is the one that was hashed; None: there is no such user."""
        async with self._slots:
            return await asyncio.to_thread(_matches, stored or self._nobody, password) and bool(
                stored
            )


def _matches(stored: str, password: str) -> bool:
    try:
        return _HASHER.verify(stored, password)
    except (VerifyMismatchError, VerificationError, InvalidHashError):
        return False
