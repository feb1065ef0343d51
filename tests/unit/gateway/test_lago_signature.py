"""Who has not the key signs nothing: every way around the check is refused."""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc import jwt
from joserfc.jwk import RSAKey
from pydantic import SecretStr
from tests.helpers.lago import HMAC_KEY, ISSUER, ORGANIZATION, by_hmac, by_jwt, headers

from faregate.gateway.lago.settings import LagoSettings
from faregate.gateway.lago.signature import Signature, public_key
from faregate.gateway.problems import Problem

BODY = '{"webhook_type":"subscription.started","name":"Zoë"}'.encode()
KEY = RSAKey.generate_key(2048, private=True)
OTHER = RSAKey.generate_key(2048, private=True)
PEM = KEY.as_pem(private=False).decode()

HMAC = Signature(LagoSettings(hmac_key=SecretStr(HMAC_KEY)))
JWT = Signature(LagoSettings(signature="jwt", public_key=PEM, organization=ORGANIZATION))


def refused(checker: Signature, signed: dict[str, str], body: bytes = BODY) -> str:
    lower = {name.lower(): value for name, value in signed.items()}
    with pytest.raises(Problem) as caught:
        checker.check(body, lower)
    assert (caught.value.status, caught.value.reason) == (401, "signature_invalid")
    return caught.value.detail


@pytest.mark.parametrize(("checker", "signed"), [(HMAC, by_hmac(BODY)), (JWT, by_jwt(BODY, KEY))])
def test_what_lago_signs_is_taken_and_any_other_body_is_not(
    checker: Signature, signed: dict[str, str]
) -> None:
    lower = {name.lower(): value for name, value in signed.items()}
    checker.check(BODY, lower)
    for other in (b"", BODY + b" ", BODY[:-1], BODY.replace(b"started", b"ended!!")):
        refused(checker, signed, other)
    without = {n: v for n, v in signed.items() if n != "X-Lago-Signature-Algorithm"}
    checker.check(BODY, {n.lower(): v for n, v in without.items()})


def token(header: dict[str, Any], claims: Any, signature: bytes = b"") -> str:
    parts = [json.dumps(header).encode(), json.dumps(claims).encode(), signature]
    return ".".join(base64.urlsafe_b64encode(p).rstrip(b"=").decode() for p in parts)


def by_secret(secret: str) -> str:
    unsigned = token({"alg": "HS256"}, CLAIMS).rpartition(".")[0]
    return token(
        {"alg": "HS256"},
        CLAIMS,
        hmac.new(secret.encode(), unsigned.encode(), sha256).digest(),
    )


CLAIMS = {"data": BODY.decode(), "iss": ISSUER}
ATTACKS: dict[str, Callable[[], str]] = {
    "nothing": lambda: "",
    "no JWT": lambda: "a.b.c",
    "alg none": lambda: token({"alg": "none"}, CLAIMS),
    "alg none, upper case": lambda: token({"alg": "NONE"}, CLAIMS),
    "the public key as an HMAC secret": lambda: by_secret(PEM),
    "another secret": lambda: by_secret("x" * 32),
    "another algorithm of the same key": lambda: jwt.encode(
        {"alg": "PS256"}, CLAIMS, KEY, algorithms=["PS256"]
    ),
    "another key": lambda: by_jwt(BODY, OTHER)["X-Lago-Signature"],
    "a key in its header": lambda: jwt.encode(
        {"alg": "RS256", "jwk": OTHER.as_dict(private=False)}, CLAIMS, OTHER, algorithms=["RS256"]
    ),
    "another issuer": lambda: by_jwt(BODY, KEY, iss="https://evil.example")["X-Lago-Signature"],
    "no issuer": lambda: by_jwt(BODY, KEY, iss=None)["X-Lago-Signature"],
    "an issuer among others": lambda: by_jwt(BODY, KEY, iss=[ISSUER])["X-Lago-Signature"],
    "another body": lambda: by_jwt(b"{}", KEY)["X-Lago-Signature"],
    "no body": lambda: by_jwt(BODY, KEY, data=None)["X-Lago-Signature"],
    "a body that is no text": lambda: by_jwt(BODY, KEY, data={"a": 1})["X-Lago-Signature"],
    "expired": lambda: by_jwt(BODY, KEY, exp=1)["X-Lago-Signature"],
    "tampered": lambda: by_jwt(BODY, KEY)["X-Lago-Signature"][:-4] + "AAAA",
    "no ASCII": lambda: "é.é.é",
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_forged_jwt_is_refused(attack: str) -> None:
    refused(JWT, headers("jwt", ATTACKS[attack]()))


@pytest.mark.parametrize(
    "signature",
    [
        "",
        " ",
        "é",
        by_hmac(BODY, "another key")["X-Lago-Signature"],
        by_hmac(BODY, "")["X-Lago-Signature"],
        by_hmac(b"{}")["X-Lago-Signature"],
        base64.b64decode(by_hmac(BODY)["X-Lago-Signature"]).hex(),
        by_hmac(BODY)["X-Lago-Signature"].swapcase(),
    ],
)
def test_a_forged_hmac_is_refused(signature: str) -> None:
    refused(HMAC, headers("hmac", signature))


def test_the_algorithm_is_that_of_the_settings_whatever_the_message_says() -> None:
    assert "by hmac" in refused(HMAC, by_jwt(BODY, KEY))
    assert "by jwt" in refused(JWT, by_hmac(BODY))
    assert "by jwt" in refused(JWT, by_hmac(BODY, PEM))
    refused(HMAC, headers("hmac", by_jwt(BODY, KEY)["X-Lago-Signature"]))
    refused(JWT, headers("jwt", by_hmac(BODY, PEM)["X-Lago-Signature"]))
    refused(HMAC, headers("none", by_hmac(BODY)["X-Lago-Signature"]))


def test_without_a_key_nothing_is_signed() -> None:
    refused(Signature(LagoSettings()), by_hmac(BODY, ""))
    refused(Signature(LagoSettings(signature="jwt")), by_jwt(BODY, KEY))


def test_the_key_is_a_pem_or_what_lagos_api_gives() -> None:
    given = base64.encodebytes(PEM.encode()).decode()
    assert "\n" in given.strip()
    Signature(LagoSettings(signature="jwt", public_key=given)).check(
        BODY, {n.lower(): v for n, v in by_jwt(BODY, KEY).items()}
    )


def short_pem() -> str:
    pem = rsa.generate_private_key(65537, 1024).public_key()
    return pem.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hello", "neither"),
        (base64.b64encode(b"hello").decode(), "no RSA"),
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", "no RSA"),
        (KEY.as_pem(private=True).decode(), "private"),
        (short_pem(), "2048"),
    ],
)
def test_a_key_that_cannot_be_used_is_named(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        public_key(text)
