"""The embedded identity: register, sign in, tokens. Off when an outside issuer is set."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from uuid import uuid4

import asyncpg

from faregate.gateway.identity import signing
from faregate.gateway.identity.keyring import Key, Keyring
from faregate.gateway.identity.passwords import Passwords
from faregate.gateway.identity.rates import Buckets
from faregate.gateway.identity.tokens import EMBEDDED_ALGORITHM, Expected, issue
from faregate.gateway.identity.users import Registered, User, Users
from faregate.gateway.metrics import Metrics
from faregate.gateway.problems import Problem
from faregate.gateway.settings import ADMIN, MANAGE, READ, SPEND, GatewaySettings
from faregate.ledger.once import Call

ISSUER = AUDIENCE = "faregate"
_PER_ADDRESS, _REGISTRATIONS = 30, 100
"""Times as many per network address: failed sign-ins, and registrations."""
_SKEW_S = 0


class Embedded:
    """Signs users in by e-mail address and password."""

    def __init__(
        self, pool: asyncpg.Pool, users: Users, settings: GatewaySettings, metrics: Metrics
    ) -> None:
        self._pool = pool
        self._users = users
        self._metrics = metrics
        self._passwords = Passwords()
        self._by_email = Buckets(settings.sign_ins_per_minute)
        self._by_address = Buckets(settings.sign_ins_per_minute * _PER_ADDRESS)
        self._registrations = Buckets(settings.sign_ins_per_minute * _REGISTRATIONS)
        self.token_ttl_s = settings.token_ttl_s

    def keyring(self) -> Keyring:
        """Give the keys that tokens of this identity are verified by."""

        async def fetch() -> Mapping[str, Key]:
            return await signing.public_keys(self._pool)

        return Keyring(fetch)

    @staticmethod
    def expected() -> Expected:
        """Say what these tokens must say."""
        return Expected(ISSUER, AUDIENCE, (EMBEDDED_ALGORITHM,), _SKEW_S)

    async def register(
        self, user: User, password: str, address: str, call: Call | None = None
    ) -> Registered:
        """Add a user, once for their call. Raises Problem `rate_limited`, `email_taken`.

        Who repeats a call proves by the password that it was theirs, as if they signed in; another
        password is other content: Problem `idempotency_conflict`.
        """
        self._allow("register", self._registrations, address)
        self._registrations.take(address)
        done = await self._users.registered(call)
        if done is None:
            hashed = await self._passwords.hash(password)
            done = await self._users.register(replace(user, password_hash=hashed), call)
        if not done.repeated:
            self._metrics.sign_ins.labels("register", "ok").inc()
            return done
        email = str(user.email)
        self._allow_try("register", email, address)
        if not await self._proves("register", done.user, email, password, address):
            raise Problem("idempotency_conflict")
        return done

    async def login(self, email: str, password: str, address: str) -> tuple[User, str]:
        """Check a password and give a token.

        Raises Problem `sign_in_failed` (the same, after the same time, for an unknown user) and
        `rate_limited`. Only failures count.
        """
        self._allow_try("login", email, address)
        user = await self._users.by_email(email)
        if not await self._proves("login", user, email, password, address) or user is None:
            raise Problem("sign_in_failed", "E-mail address or password is wrong.")
        self._metrics.sign_ins.labels("login", "ok").inc()
        return user, await self.token(user)

    async def _proves(
        self, kind: str, user: User | None, email: str, password: str, address: str
    ) -> bool:
        """Tell whether a password is the user's; failures count."""
        if await self._passwords.matches(user.password_hash if user else None, password):
            return True
        self._by_email.take(email.lower())
        self._by_address.take(address)
        self._metrics.sign_ins.labels(kind, "failed").inc()
        return False

    def _allow_try(self, kind: str, email: str, address: str) -> None:
        self._allow(kind, self._by_email, email.lower())
        self._allow(kind, self._by_address, address)

    async def token(self, user: User) -> str:
        """Issue a token for a user."""
        kid, key = await signing.newest_key(self._pool)
        scopes = [READ, SPEND, MANAGE, *([ADMIN] if user.is_admin else [])]
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": user.user_id,
            "iat": now,
            "exp": now + self.token_ttl_s,
            "jti": str(uuid4()),
            "scope": " ".join(scopes),
        }
        return issue(key, kid, claims)

    def _allow(self, kind: str, buckets: Buckets, name: str) -> None:
        wait = buckets.wait_s(name)
        if wait:
            self._metrics.sign_ins.labels(kind, "limited").inc()
            raise Problem(
                "rate_limited",
                f"Too many tries; the next one is possible in {wait} s.",
                headers={"Retry-After": str(wait)},
            )
