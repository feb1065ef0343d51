"""Which gateway a report is about, and what may be done with it."""

from __future__ import annotations

from dataclasses import dataclass, field

from faregate.runtime.flows.world import Own, OwnKey


@dataclass(frozen=True, slots=True)
class Login:
    """A platform admin of the embedded identity."""

    email: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Target:
    """A running gateway. The admin is a login or a token; without one some steps are not run."""

    url: str
    login: Login | None = None
    token: str | None = field(default=None, repr=False)
    database: str | None = field(default=None, repr=False)
    own: Own | None = None
    own_key: OwnKey | None = field(default=None, repr=False)
