"""Idempotency-Key: an unsafe call happens once, for ever (scope: caller and route)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated
from uuid import uuid4

from fastapi import Depends, Header, Request

_MAX_CHARS = 200


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """The key of one call. Without a header it is a random one, which nobody can repeat."""

    route: str
    value: str
    given: bool
    """Whether the caller sent it."""

    def of(self, user_id: str) -> str:
        """Name what this caller does by this call; unique within the gateway."""
        return f"{user_id} {self.route} {self.value}"


async def _key(
    request: Request,
    idempotency_key: Annotated[
        str | None,
        Header(
            min_length=1,
            max_length=_MAX_CHARS,
            description="The same key and body happen once; other content is refused (409).",
        ),
    ] = None,
) -> IdempotencyKey:
    route = f"{request.method} {request.scope['route'].path}"
    return IdempotencyKey(route, idempotency_key or str(uuid4()), idempotency_key is not None)


Key = Annotated[IdempotencyKey, Depends(_key)]
