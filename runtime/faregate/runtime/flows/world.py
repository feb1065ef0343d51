"""What the flows are played in: the gateway, an admin, the ledger, and people that are made."""

from __future__ import annotations

from dataclasses import dataclass, field
from secrets import token_hex, token_urlsafe
from typing import Protocol

from faregate.runtime.flows.books import Books
from faregate.runtime.flows.client import Aborted, Client, NotHere, Person, said

NO_LEDGER = "the ledger was not looked at: no --database"
NO_ADMIN = "this takes a platform admin: --admin-email, or a token"


@dataclass(frozen=True, slots=True)
class OwnKey:
    """A provider that users may bring keys of, and a key that it takes."""

    provider: str
    key: str = field(repr=False)


class Own(Protocol):
    """What can be done only where the report has started the servers itself."""

    def stop_database(self) -> None:
        """Stop PostgreSQL."""

    def start_database(self) -> None:
        """Start it again, on the same data."""

    def log(self) -> str:
        """Give what the gateway has logged."""


@dataclass(slots=True)
class World:
    """Everything a flow works with. `books`, `own`, `own_key` are None where there is none."""

    client: Client
    admin_or_none: Person | None
    books: Books | None
    own: Own | None
    own_key: OwnKey | None
    has_upstream: bool | None = None
    """Whether the gateway has an upstream for LLM calls; None: nobody has tried."""
    password: str = field(default_factory=lambda: token_urlsafe(16), repr=False)

    @property
    def admin(self) -> Person:
        """The platform admin. Raises NotHere."""
        if self.admin_or_none is None:
            raise NotHere(NO_ADMIN)
        return self.admin_or_none

    def make_email(self, name: str) -> str:
        """Give an address that nobody has."""
        return f"report-{name}-{token_hex(5)}@example.com"

    async def person(
        self, name: str, *, email: str | None = None, timed: str | None = None
    ) -> Person:
        """Register somebody new. Raises Aborted; NotHere where an outside issuer signs in."""
        email = email or self.make_email(name)
        new = {"email": email, "password": self.password, "name": name}
        made = await self.client.call("POST", "/auth/register", new, timed=timed)
        if made.status == 404:  # noqa: PLR2004 - the embedded identity is off
            raise NotHere("people are registered at an outside issuer here")
        if made.status != 201:  # noqa: PLR2004
            raise Aborted(f"{name} can register", 201, said(made), made.call)
        return Person(self.client, name, made["access_token"], made["user_id"], email)
