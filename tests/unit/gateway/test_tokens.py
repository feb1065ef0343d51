"""Tokens: what is refused, and why. Each line of the table is an attack that somebody has met."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from joserfc import jwt
from joserfc.errors import SecurityWarning
from joserfc.jwk import ECKey, RSAKey

from faregate.gateway.identity.keyring import Key, Keyring, KeysUnavailable, public_keys
from faregate.gateway.identity.tokens import ALGORITHMS, Expected, Verifier
from faregate.gateway.metrics import Metrics
from faregate.gateway.problems import Problem
from faregate.gateway.settings import ADMIN, READ, USER_SCOPES

ISSUER, AUDIENCE = "https://id.example.com/realms/main", "faregate"
RSA = RSAKey.generate_key(2048, private=True)
EC = ECKey.generate_key("P-256", private=True)
STRANGER = RSAKey.generate_key(2048, private=True)


def jwks() -> dict[str, Any]:
    keys = [
        {**RSA.as_dict(private=False), "kid": "rsa"},
        {**EC.as_dict(private=False), "kid": "ec"},
    ]
    return {"keys": keys}


class Source:
    """Keys of an issuer; counts how often they are fetched."""

    def __init__(self) -> None:
        self.fetched = 0
        self.away = False
        self.set = jwks()

    async def __call__(self) -> Mapping[str, Key]:
        self.fetched += 1
        if self.away:
            raise KeysUnavailable("no answer")
        return public_keys(self.set)


def verifier(source: Source | None = None, **more: Any) -> Verifier:
    expected = Expected(ISSUER, AUDIENCE, ALGORITHMS, 60)
    return Verifier(Keyring(source or Source(), **more), expected, Metrics())


def claims(**more: Any) -> dict[str, Any]:
    now = int(time.time())
    return {"iss": ISSUER, "aud": AUDIENCE, "sub": "ada", "iat": now, "exp": now + 300, **more}


def token(
    key: Any = RSA, header: Mapping[str, Any] | None = None, without: str = "", **more: Any
) -> str:
    said = {k: v for k, v in claims(**more).items() if k != without}
    head = {"alg": "RS256", "kid": "rsa", **(header or {})}
    return jwt.encode(head, said, key, algorithms=["RS256", "ES256", "HS256"])


def b64(value: Any) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def unsigned(algorithm: str) -> str:
    return f"{b64({'alg': algorithm, 'kid': 'rsa'})}.{b64(claims())}."


def signed_with_the_public_key() -> str:
    said = f"{b64({'alg': 'HS256', 'kid': 'rsa'})}.{b64(claims())}"
    return f"{said}.{b64(hmac.digest(RSA.as_pem(private=False), said.encode(), 'sha256'))}"


def with_other_claims() -> str:
    head, _, signature = token().split(".")
    return f"{head}.{b64(claims(sub='eve', scope='faregate:admin'))}.{signature}"


def with_other_signature() -> str:
    head, body, signature = token().split(".")
    return f"{head}.{body}.{signature[:-8]}AAAAAAAA"


def embedded_key(name: str) -> str:
    value: Any = {**STRANGER.as_dict(private=False), "kid": "rsa"}
    if name in {"jku", "x5u"}:
        value = "https://evil.example/keys"
    if name == "x5c":
        value = [b64(STRANGER.as_der(private=False))]
    head, said = {"alg": "RS256", "kid": "rsa", name: value}, b64(claims())
    real = token(STRANGER)
    return f"{b64(head)}.{said}.{real.split('.')[2]}"


SAYS_TWO_THINGS = b'{"alg": "RS256", "kid": "rsa", "alg": "none"}'
ATTACKS: dict[str, Callable[[], str]] = {
    "no signature, none": lambda: unsigned("none"),
    "no signature, None": lambda: unsigned("None"),
    "no signature, NONE": lambda: unsigned("nOnE"),
    "no signature, RS256": lambda: unsigned("RS256"),
    "the public key as a secret": signed_with_the_public_key,
    "another algorithm family than the key's": lambda: token(EC, {"alg": "ES256", "kid": "rsa"}),
    "another key of the same kind": lambda: token(STRANGER),
    "a key in the header": lambda: embedded_key("jwk"),
    "the address of a key": lambda: embedded_key("jku"),
    "the address of a certificate": lambda: embedded_key("x5u"),
    "a certificate in the header": lambda: embedded_key("x5c"),
    "the address of a key beside a good signature": lambda: token(
        header={"jku": "https://evil.example/keys"}
    ),
    "a key beside a good signature": lambda: token(header={"jwk": STRANGER.as_dict(private=False)}),
    "a critical extension": lambda: (
        f"{b64({'alg': 'RS256', 'kid': 'rsa', 'crit': ['b64'], 'b64': False})}.{b64(claims())}.AAAA"
    ),
    "no more than zeros for a signature": lambda: (
        f"{b64({'alg': 'ES256', 'kid': 'ec'})}.{b64(claims())}.{b64(bytes(64))}"
    ),
    "a header that says two things": lambda: f"{b64(SAYS_TWO_THINGS)}.{b64(claims())}.",
    "an unknown kid": lambda: token(header={"kid": "nobody"}),
    "a kid that is a path": lambda: token(header={"kid": "../../dev/null"}),
    "a kid that is an address": lambda: token(header={"kid": "https://evil.example/keys/rsa"}),
    "a kid that is a query": lambda: token(header={"kid": "rsa' OR '1'='1"}),
    "a kid that is no text": lambda: (
        f"{b64({'alg': 'RS256', 'kid': ['rsa']})}.{b64(claims())}.AAAA"
    ),
    "no kid": lambda: f"{b64({'alg': 'RS256'})}.{b64(claims())}.AAAA",
    "an algorithm that is no text": lambda: (
        f"{b64({'alg': ['RS256'], 'kid': 'rsa'})}.{b64(claims())}.AA"
    ),
    "another issuer": lambda: token(iss="https://evil.example"),
    "another audience": lambda: token(aud="somebody-else"),
    "many audiences, not ours": lambda: token(aud=["a", "b"]),
    "no issuer": lambda: token(without="iss"),
    "no audience": lambda: token(without="aud"),
    "no subject": lambda: token(without="sub"),
    "no end": lambda: token(without="exp"),
    "expired": lambda: token(exp=int(time.time()) - 61),
    "an end that is no number": lambda: token(exp="tomorrow"),
    "not yet valid": lambda: token(nbf=int(time.time()) + 120),
    "issued in the future": lambda: token(iat=int(time.time()) + 120),
    "other claims": with_other_claims,
    "another signature": with_other_signature,
    "an empty subject": lambda: token(sub=" "),
    "a subject with a line break": lambda: token(sub="ada\neve"),
    "a subject that is too long": lambda: token(sub="a" * 201),
    "two parts": lambda: ".".join(token().split(".")[:2]),
    "five parts (encrypted)": lambda: "a.b.c.d.e",
    "not base64": lambda: "!!!.###.$$$",
    "a header that is no object": lambda: f"{b64([1])}.{b64(claims())}.AAAA",
    "claims that are no object": lambda: f"{b64({'alg': 'RS256', 'kid': 'rsa'})}.{b64([1])}.AAAA",
    "an ID token, as Keycloak marks it": lambda: token(typ="ID"),
    "an ID token by its hash": lambda: token(at_hash="77QmUPtjPfzWtF2AnpK9RQ"),
    "an ID token by its use": lambda: token(token_use="id"),
    "a refresh token": lambda: token(typ="Refresh"),
    "an offline token": lambda: token(typ="Offline"),
    "a logout token": lambda: token(header={"typ": "logout+jwt"}, typ="Logout"),
    "a logout token by its events": lambda: token(events={}),
    "a token that is bound to a key": lambda: token(typ="DPoP", cnf={"jkt": "x"}),
    "a token of another kind": lambda: token(header={"typ": "secevent+jwt"}),
    "far too long": lambda: token(padding="x" * 10_000),
}


@pytest.mark.parametrize("attack", ATTACKS)
async def test_a_token_is_refused_with(attack: str) -> None:
    with pytest.raises(Problem) as refused:
        await verifier().verify(ATTACKS[attack]())
    assert (refused.value.status, refused.value.reason) == (401, "unauthenticated")


@pytest.mark.parametrize(
    ("key", "header"), [(RSA, {}), (EC, {"alg": "ES256", "kid": "ec"})], ids=["RS256", "ES256"]
)
async def test_a_good_token_is_taken(key: Any, header: dict[str, str]) -> None:
    said = await verifier().verify(token(key, header))
    assert (said.user_id, said.scopes, said.is_admin) == ("ada", USER_SCOPES, False)


async def test_clocks_may_differ_by_a_minute() -> None:
    now = int(time.time())
    assert (await verifier().verify(token(exp=now - 50))).user_id == "ada"
    assert (await verifier().verify(token(nbf=now + 50, iat=now + 50))).user_id == "ada"


async def test_a_token_with_scopes_of_ours_has_no_others() -> None:
    said = await verifier().verify(token(scope="openid faregate:read profile"))
    assert said.scopes == {READ}
    assert (await verifier().verify(token(scope=f"openid {ADMIN}"))).is_admin


async def test_an_address_counts_only_when_it_was_verified() -> None:
    assert (await verifier().verify(token(email="a@b.example"))).email is None
    told = await verifier().verify(token(email="a@b.example", email_verified=True, iat=1.5))
    assert (told.email, told.issued_at) == ("a@b.example", 1.5)
    assert (await verifier().verify(token(without="iat"))).issued_at is None


async def test_keys_are_fetched_again_for_an_unknown_one_but_not_for_each_token() -> None:
    source = Source()
    checks = verifier(source, refetch_s=30.0)
    await checks.verify(token())
    for _ in range(20):
        with pytest.raises(Problem):
            await checks.verify(token(header={"kid": "unknown"}))
    assert source.fetched == 1


@pytest.mark.parametrize("kind", ["JWT", "at+jwt", "application/at+jwt", "AT+JWT"])
async def test_access_tokens_are_taken_as_issuers_mark_them(kind: str) -> None:
    marked = token(header={"typ": kind}, typ="Bearer", token_use="access")
    assert (await verifier().verify(marked)).user_id == "ada"


async def test_after_a_rotation_the_new_key_is_found() -> None:
    source = Source()
    checks = verifier(source, refetch_s=0.0)
    await checks.verify(token())
    source.set["keys"].append({**STRANGER.as_dict(private=False), "kid": "new"})
    assert (await checks.verify(token(STRANGER, {"kid": "new"}))).user_id == "ada"


async def test_a_key_that_the_issuer_withdraws_is_refused_in_time_also_for_known_tokens() -> None:
    source = Source()
    checks = verifier(source, max_age_s=0.2)
    old = token()
    claimed = await checks.verify(old)
    checks.remember(old, claimed)
    del source.set["keys"][0]
    assert checks.known(old) is not None
    await asyncio.sleep(0.21)
    assert checks.known(old) is None
    with pytest.raises(Problem):
        await checks.verify(old)
    assert (await checks.verify(token(EC, {"alg": "ES256", "kid": "ec"}))).user_id == "ada"


async def test_another_key_under_an_old_name_ends_what_the_old_one_had_signed() -> None:
    source = Source()
    checks = verifier(source, max_age_s=0.2)
    old = token()
    checks.remember(old, await checks.verify(old))
    source.set["keys"][0] = {**STRANGER.as_dict(private=False), "kid": "rsa"}
    await asyncio.sleep(0.21)
    assert (await checks.verify(token(STRANGER))).user_id == "ada"
    assert checks.known(old) is None


async def test_keys_in_use_are_read_again_in_the_background_and_stay_the_same() -> None:
    source = Source()
    checks = verifier(source, max_age_s=2)
    ours = token()
    checks.remember(ours, await checks.verify(ours))
    for _ in range(12):
        await asyncio.sleep(0.25)
        assert checks.known(ours) is not None
    assert 2 <= source.fetched <= 4


async def test_while_the_issuer_is_away_known_keys_count_and_unknown_ones_are_not_refused() -> None:
    source = Source()
    checks = verifier(source, max_age_s=2, refetch_s=0.0)
    ours = token()
    checks.remember(ours, await checks.verify(ours))
    source.away = True
    await asyncio.sleep(1.1)
    assert checks.known(ours) is not None
    await asyncio.sleep(1)
    assert checks.known(ours) is not None, "the attempt in the background has failed"
    assert (await checks.verify(token(jti="another"))).user_id == "ada"
    with pytest.raises(KeysUnavailable):
        await checks.verify(token(header={"kid": "new"}))


async def test_right_after_a_failed_attempt_keys_are_not_asked_for_again() -> None:
    source = Source()
    source.away = True
    checks = verifier(source, refetch_s=30.0)
    for _ in range(3):
        with pytest.raises(KeysUnavailable):
            await checks.verify(token())
    assert source.fetched == 1


async def test_a_remembered_token_ends_when_it_expires() -> None:
    checks = verifier()
    short = token(exp=int(time.time()) - 59)
    claimed = await checks.verify(short)
    checks.remember(short, claimed)
    assert checks.known(short) is not None
    assert checks.known(token(jti="other")) is None
    time.sleep(max(0.0, claimed.expires_at - time.time()) + 0.01)
    assert checks.known(short) is None


def test_weak_symmetric_and_foreign_keys_of_an_issuer_are_left_out() -> None:
    with pytest.warns(SecurityWarning):
        weak = RSAKey.generate_key(1024, private=True)
    found = public_keys(
        {
            "keys": [
                {**weak.as_dict(private=False), "kid": "weak"},
                {"kty": "oct", "k": "c2VjcmV0", "kid": "secret"},
                {**RSA.as_dict(private=False), "kid": "for-encryption", "use": "enc"},
                {"kty": "RSA", "kid": "broken"},
                RSA.as_dict(private=False) | {"kid": None},
                *jwks()["keys"],
            ]
        }
    )
    assert sorted(found) == ["ec", "rsa"]
