"""Webhooks are Lago's, or they are refused: HMAC-SHA256 or a JWT, whichever the settings say.

https://getlago.com/docs/api-reference/webhooks/format---signature: `X-Lago-Signature` is the HMAC
of the body in base64, or a JWT (RS256) whose claim `data` is the body and whose `iss` is the
address of Lago's API. Neither has a time in it, and `X-Lago-Unique-Key` is not signed: that a
message which comes again changes nothing is not this module's business.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Mapping
from hashlib import sha256

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import RSAKey

from faregate.gateway.lago.settings import LagoSettings
from faregate.gateway.problems import Problem

ALGORITHM = "RS256"
_MIN_RSA_BITS = 2048


class Signature:
    """Checks signatures. Raises ValueError for a public key that cannot be used."""

    def __init__(self, settings: LagoSettings) -> None:
        self._pinned = settings.signature
        self._issuer = settings.issuer
        self._secret = settings.hmac_key.get_secret_value().encode() if settings.hmac_key else b""
        self._key = public_key(settings.public_key) if settings.public_key else None

    def check(self, body: bytes, headers: Mapping[str, str]) -> None:
        """Check that Lago has signed `body` as it is. Raises Problem `signature_invalid`."""
        said = headers.get("x-lago-signature-algorithm", self._pinned)
        if said != self._pinned:
            raise refused(f"webhooks here must be signed by {self._pinned}")
        signature = headers.get("x-lago-signature", "").strip()
        if not signature:
            raise refused("there is no X-Lago-Signature")
        if self._pinned == "hmac":
            self._by_hmac(body, signature)
        else:
            self._by_jwt(body, signature)

    def _by_hmac(self, body: bytes, signature: str) -> None:
        expected = base64.b64encode(hmac.new(self._secret, body, sha256).digest())
        if not self._secret or not hmac.compare_digest(expected, signature.encode()):
            raise refused("it is not that of this body")

    def _by_jwt(self, body: bytes, signature: str) -> None:
        registry = jwt.JWTClaimsRegistry(
            iss={"essential": True, "value": self._issuer}, data={"essential": True}
        )
        if self._key is None:
            raise refused("there is no key to check it by")
        try:
            claims = jwt.decode(signature, self._key, algorithms=[ALGORITHM]).claims
            registry.validate(claims)
        except (JoseError, ValueError):
            raise refused("it is not one of this Lago") from None
        data = claims["data"]
        signed = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else b""
        if not hmac.compare_digest(signed, body):
            raise refused("it is not that of this body")


def public_key(text: str) -> RSAKey:
    """Read a public key: PEM, or the base64 of it that Lago's API gives. Raises ValueError."""
    pem = text.strip()
    if not pem.startswith("-----BEGIN "):
        try:
            pem = base64.b64decode("".join(pem.split()), validate=True).decode("ascii")
        except (binascii.Error, ValueError):
            raise ValueError("is neither a PEM nor the base64 of one") from None
    if "PRIVATE KEY" in pem:
        raise ValueError("is a private key: set the public one")
    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, RSAPublicKey) or key.key_size < _MIN_RSA_BITS:
        raise ValueError(f"is no RSA public key of {_MIN_RSA_BITS} bits or more")
    return RSAKey.import_key(pem)


def refused(why: str) -> Problem:
    """Give the problem of a webhook that is not taken for Lago's."""
    return Problem("signature_invalid", f"The signature was refused: {why}.")
