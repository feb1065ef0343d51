"""Tokens: issued by the embedded identity, verified for it and for an OpenID Connect issuer.

Checked in this order: form and size, algorithm (pinned), `kid` (a look-up key only), signature,
issuer, audience, times, kind. Headers that bring a key or an address of one (`jwk`, `jku`, `x5u`,
`x5c`) and critical extensions are refused outright.

Only access tokens are taken. The same issuer signs ID tokens, which are meant for a client and say
who signed in, refresh and logout tokens: what tells them apart is `typ` in the header (RFC 9068
section 2.1, RFC 8725 section 3.11), `typ` in Keycloak's claims, and the hashes that only ID tokens
carry (OpenID Connect Core 1.0 section 3.1.3.6). A token that is bound to a key of its sender
(`cnf`: RFC 8705, RFC 9449) is good only with a proof, which nobody here asks for: refused.
"""

from __future__ import annotations

import base64
import json
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from joserfc import jwt
from joserfc.errors import JoseError

from faregate.gateway.identity.keyring import Key, Keyring
from faregate.gateway.metrics import Metrics
from faregate.gateway.problems import Problem
from faregate.gateway.settings import ADMIN, USER_SCOPES

ALGORITHMS = ("ES256", "ES384", "ES512", "PS256", "PS384", "PS512", "RS256", "RS384", "RS512")
"""Asymmetric ones only: no `none`, and no secret that a public key could be taken for."""
EMBEDDED_ALGORITHM = "ES256"
SKEW_S = 60
"""So far an outside issuer's clock may be ahead of ours, or behind; beyond it nobody signs in."""
_KIND_OF = {"E": "EC", "P": "RSA", "R": "RSA"}
_MAX_CHARS = 8_192
_KEPT = 10_000
_FOREIGN_KEYS = frozenset({"jku", "jwk", "x5u", "x5c", "crit", "b64", "zip", "enc"})
_SCOPE_PREFIX = "faregate:"
_HEADER_TYPES = frozenset({"jwt", "at+jwt", "application/at+jwt"})
_CLAIMED_TYPES = frozenset({"bearer", "jwt", "at+jwt"})
_NO_ACCESS = "it is no access token that a bearer can show"
_NOT_OF_ACCESS = frozenset({"at_hash", "c_hash", "cnf", "events"})


@dataclass(frozen=True, slots=True)
class Claims:
    """What a verified token says: who (`user_id`), what they may do, until when.

    Times are epoch seconds by the issuer's clock; `issued_at` is None where the token has no `iat`.
    """

    user_id: str
    scopes: frozenset[str]
    expires_at: float
    email: str | None = None
    issued_at: float | None = None
    signed_by: tuple[str, Key] | None = field(default=None, compare=False, repr=False)
    """`kid` and key: what was verified is forgotten when the issuer withdraws the key."""

    @property
    def is_admin(self) -> bool:
        """Whether it is a platform admin's."""
        return ADMIN in self.scopes


@dataclass(frozen=True, slots=True)
class Expected:
    """What a token must say to be taken."""

    issuer: str
    audience: str
    algorithms: Sequence[str]
    skew_s: int


class Verifier:
    """Verifies tokens; those that were good are remembered until they expire."""

    def __init__(self, keyring: Keyring, expected: Expected, metrics: Metrics) -> None:
        self._keyring = keyring
        self._expected = expected
        self._metrics = metrics
        self._cached = metrics.tokens.labels("cached")
        self._known: OrderedDict[str, Claims] = OrderedDict()

    def known(self, token: str) -> Claims | None:
        """Give what a token says that was verified before and is still good."""
        known = self._known.get(token)
        if known is not None and self._still_good(known):
            self._known.move_to_end(token)
            self._cached.inc()
            return known
        self._known.pop(token, None)
        return None

    def _still_good(self, claims: Claims) -> bool:
        signed = claims.signed_by
        return time.time() < claims.expires_at and (
            signed is None or self._keyring.holds(signed[0], signed[1])
        )

    def remember(self, token: str, claims: Claims) -> None:
        """Take a verified token for good until it expires."""
        self._known[token] = claims
        if len(self._known) > _KEPT:
            self._known.popitem(last=False)

    async def verify(self, token: str) -> Claims:
        """Verify a token and give what it says.

        Raises Problem `unauthenticated`, which names the reason, and what fetching keys raises.
        """
        try:
            claims = await self._verified(token)
        except Problem:
            self._metrics.tokens.labels("refused").inc()
            raise
        self._metrics.tokens.labels("verified").inc()
        return claims

    async def _verified(self, token: str) -> Claims:
        header = _header(token)
        algorithm, kid = header.get("alg"), header.get("kid")
        if algorithm not in self._expected.algorithms:
            raise _refused("its algorithm is not one of those that are accepted")
        if header.keys() & _FOREIGN_KEYS:
            raise _refused("its header brings a key or an extension of its own")
        if str(header.get("typ", "JWT")).lower() not in _HEADER_TYPES:
            raise _refused(_NO_ACCESS)
        if not isinstance(kid, str):
            raise _refused("its header names no key")
        key = await self._keyring.find(kid)
        if key is None or key.key_type != _KIND_OF[str(algorithm)[0]]:
            raise _refused("its key is not known")
        return replace(self._claims(token, key, str(algorithm)), signed_by=(kid, key))

    def _claims(self, token: str, key: Key, algorithm: str) -> Claims:
        expected = self._expected
        registry = jwt.JWTClaimsRegistry(
            leeway=expected.skew_s,
            iss={"essential": True, "value": expected.issuer},
            aud={"essential": True, "value": expected.audience},
            sub={"essential": True},
            exp={"essential": True},
        )
        try:
            claims = jwt.decode(token, key, algorithms=[algorithm]).claims
        except (JoseError, ValueError):
            raise _refused("its signature is not good") from None
        try:
            registry.validate(claims)
        except JoseError as error:
            raise _refused(f"its claims are not good: {error}") from None
        _require_access(claims)
        return claims_of(claims, expected.skew_s)


def _require_access(claims: Mapping[str, Any]) -> None:
    if str(claims.get("typ", "Bearer")).lower() not in _CLAIMED_TYPES:
        raise _refused(_NO_ACCESS)
    if claims.keys() & _NOT_OF_ACCESS or claims.get("token_use", "access") != "access":
        raise _refused(_NO_ACCESS)


def claims_of(claims: Mapping[str, Any], skew_s: int) -> Claims:
    """Read the claims of a token that was verified."""
    user_id = str(claims["sub"])
    if not user_id.strip() or len(user_id) > 200 or not user_id.isprintable():  # noqa: PLR2004
        raise _refused("its subject cannot be a user id")
    said = claims.get("scope", claims.get("scp", ""))
    words = said.split() if isinstance(said, str) else said if isinstance(said, list) else []
    ours = frozenset(w for w in words if isinstance(w, str) and w.startswith(_SCOPE_PREFIX))
    email = claims.get("email")
    trusted = isinstance(email, str) and claims.get("email_verified") is True
    issued_at = claims.get("iat")
    return Claims(
        user_id,
        ours or USER_SCOPES,
        float(claims["exp"]) + skew_s,
        email if trusted else None,
        float(issued_at) if issued_at is not None else None,
    )


def issue(key: Key, kid: str, claims: Mapping[str, Any]) -> str:
    """Sign a token of the embedded identity."""
    header = {"alg": EMBEDDED_ALGORITHM, "kid": kid, "typ": "JWT"}
    return jwt.encode(header, dict(claims), key, algorithms=[EMBEDDED_ALGORITHM])


def _header(token: str) -> dict[str, Any]:
    first, *rest = token.split(".")
    if len(token) > _MAX_CHARS or len(rest) != 2:  # noqa: PLR2004 - a JWS has three parts
        raise _refused("it is not a signed JWT")
    try:
        header = json.loads(base64.urlsafe_b64decode(first + "=" * (-len(first) % 4)))
    except (ValueError, RecursionError):
        raise _refused("its header cannot be read") from None
    if not isinstance(header, dict):
        raise _refused("its header cannot be read")
    return header


def _refused(why: str) -> Problem:
    return Problem("unauthenticated", f"The token was refused: {why}.")
