"""Idempotency-Key: an unsafe call happens once, for ever (scope: caller and route).

A call that is a command of the ledger is remembered by it: `of` names the command. Any other is
remembered beside it: `call` names it for `faregate.ledger.once`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any
from uuid import uuid4

from fastapi import Depends, Header, Request

from faregate.ledger.keys import Keys
from faregate.ledger.once import Call, call_of

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

    def call(
        self,
        keys: Keys,
        caller: str,
        *contents: Mapping[str, Any],
        scope: str | None = None,
        step: str = "",
    ) -> Call | None:
        """Name this call; None without the header. `contents` are ways to say the same.

        `scope` is whose keys these are where the caller is not known yet; `step` is a part of what
        the call does that is remembered by itself. No secret may be in `contents`.
        """
        if not self.given:
            return None
        return call_of(
            keys, scope or f"user {caller}", self.route + step, self.value, caller, contents
        )


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
