"""What is read out of Keycloak's events, in each form that they are posted in."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from faregate.gateway.identity.keycloak import UserEvent, is_signed, read, signature_of
from faregate.gateway.problems import Problem

ADA = "47c223f9-813f-4d65-81ea-56f49cc2aba1"
AT = 1_770_000_000_123
MOMENT = datetime(2026, 2, 2, 2, 40, 0, 123_000, tzinfo=UTC)

REGISTERED: dict[str, Any] = {
    "time": AT,
    "type": "REGISTER",
    "realmId": "d68b322b-c065-4969-b852-83f2ee7d4cb1",
    "clientId": "account-console",
    "userId": ADA,
    "ipAddress": "192.0.2.7",
    "details": {
        "auth_method": "openid-connect",
        "register_method": "form",
        "username": "ada",
        "email": "ada@example.com",
        "first_name": "Ada",
        "last_name": "Lovelace",
    },
}
CREATED: dict[str, Any] = {
    "time": AT,
    "realmId": "d68b322b-c065-4969-b852-83f2ee7d4cb1",
    "authDetails": {"realmId": "m", "clientId": "c", "userId": "root", "ipAddress": "192.0.2.1"},
    "operationType": "CREATE",
    "resourceType": "USER",
    "resourcePath": f"users/{ADA}",
    "representation": json.dumps(
        {
            "username": "ada",
            "firstName": "Ada",
            "lastName": "Lovelace",
            "email": "ada@example.com",
            "emailVerified": True,
            "attributes": {"locale": ["de"]},
        }
    ),
}


def sent_by_an_extension(kind: str, event: dict[str, Any]) -> dict[str, Any]:
    """The same as the extension keycloak-events puts it: one form for both kinds."""
    whole = {**event, "uid": "1a4f38f0-ea82-4cb5-a9c0-63066904f55e", "type": kind}
    if "userId" in event:
        whole["authDetails"] = {"realmId": "main", "userId": whole.pop("userId")}
    return {**whole, "realmName": "main", "error": None}


def test_a_registration_creates_and_verifies_nothing() -> None:
    said = read(REGISTERED)
    assert said == UserEvent(
        ADA, MOMENT, created=True, email="ada@example.com", name="Ada Lovelace"
    )
    assert said.verified is None


def test_a_user_that_an_admin_made_is_verified_if_the_admin_said_so() -> None:
    expected = UserEvent(
        ADA, MOMENT, created=True, verified=True, email="ada@example.com", name="Ada Lovelace"
    )
    assert read(CREATED) == expected
    assert read({**CREATED, "representation": json.loads(CREATED["representation"])}) == expected
    without = {**CREATED, "representation": '{"username": "ada", "email": "ada@example.com"}'}
    assert (found := read(without)) is not None
    assert found.verified is False
    text = '{"emailVerified": "true", "email": "ada@example.com"}'
    assert (found := read({**CREATED, "representation": text})) is not None
    assert found.verified is False


def test_the_extensions_form_says_the_same() -> None:
    for kind, event in (("access.REGISTER", REGISTERED), ("admin.USER-CREATE", CREATED)):
        plain, wrapped = read(event), read(sent_by_an_extension(kind, event))
        assert plain is not None
        assert wrapped is not None
        assert (plain.user_id, plain.created, plain.verified, plain.email) == (
            wrapped.user_id,
            wrapped.created,
            wrapped.verified,
            wrapped.email,
        )
        assert (plain.realm, wrapped.realm) == (None, "main")


def test_without_a_representation_there_is_still_a_user() -> None:
    bare = {n: v for n, v in CREATED.items() if n != "representation"}
    assert read(bare) == UserEvent(ADA, MOMENT, created=True)


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ({"type": "VERIFY_EMAIL"}, {"verified": True, "email": "ada@example.com"}),
        ({"type": "UPDATE_EMAIL"}, {"verified": False}),
        (
            {"type": "UPDATE_PROFILE", "details": {"updated_email": "b@example.com"}},
            {"verified": False, "name": None},
        ),
        ({"type": "DELETE_ACCOUNT"}, {"deleted": True, "email": "ada@example.com"}),
    ],
    ids=str,
)
def test_later_events_of_a_user(event: dict[str, Any], expected: dict[str, Any]) -> None:
    said = {"name": "Ada Lovelace", **expected}
    assert read({**REGISTERED, **event}) == UserEvent(ADA, MOMENT, **said)


def test_what_an_admin_does_to_a_user() -> None:
    changed = {**CREATED, "operationType": "UPDATE"}
    assert (said := read(changed)) is not None
    assert (said.created, said.verified, said.email) == (False, True, "ada@example.com")
    assert (said := read({**changed, "representation": '{"firstName": "Ada"}'})) is not None
    assert said.verified is None
    gone = {**CREATED, "operationType": "DELETE", "representation": None}
    assert read(gone) == UserEvent(ADA, MOMENT, deleted=True)


@pytest.mark.parametrize(
    "event",
    [
        {**REGISTERED, "type": "LOGIN"},
        {**REGISTERED, "type": "UPDATE_PROFILE"},
        {**REGISTERED, "type": "REGISTER_ERROR", "error": "email_in_use"},
        {**REGISTERED, "error": "email_in_use"},
        {**REGISTERED, "type": "SEND_VERIFY_EMAIL"},
        {**CREATED, "error": "forbidden"},
        {**CREATED, "resourceType": "CLIENT", "resourcePath": f"clients/{ADA}"},
        {**CREATED, "resourcePath": f"users/{ADA}/role-mappings"},
        {**CREATED, "operationType": "ACTION", "resourcePath": f"users/{ADA}/logout"},
    ],
    ids=lambda e: str(e.get("type") or e["resourcePath"])[:40],
)
def test_what_changes_nothing_is_left_out(event: dict[str, Any]) -> None:
    assert read(event) is None


@pytest.mark.parametrize(
    ("event", "field"),
    [
        ([], "body"),
        ("REGISTER", "body"),
        ({}, "type"),
        ({"type": 5}, "type"),
        ({**REGISTERED, "userId": None}, "userId"),
        ({**REGISTERED, "userId": ""}, "userId"),
        ({**REGISTERED, "userId": "a\x00b"}, "userId"),
        ({**REGISTERED, "userId": "x" * 201}, "userId"),
        ({**REGISTERED, "userId": {"id": 1}}, "userId"),
        ({**REGISTERED, "details": "none"}, "details"),
        ({**REGISTERED, "time": 10**30}, "time"),
        ({**CREATED, "resourcePath": "users/ "}, "resourcePath"),
        ({**CREATED, "representation": "no JSON"}, "body"),
        ({**CREATED, "representation": "[1]"}, "representation"),
        ({**CREATED, "representation": "[" * 100}, "body"),
    ],
    ids=lambda v: str(v)[:30],
)
def test_what_is_no_event_is_refused_with_its_field(event: Any, field: str) -> None:
    with pytest.raises(Problem) as refused:
        read(event)
    assert refused.value.status == 400
    assert refused.value.more["errors"][0]["field"] == field


@pytest.mark.parametrize(
    "details",
    [{"email": "no address"}, {"email": "a@b\u200b.example"}, {"email": 5}, {"first_name": "\x00"}],
    ids=str,
)
def test_an_address_or_name_that_cannot_be_one_is_left_out(details: dict[str, Any]) -> None:
    said = read({**REGISTERED, "details": details})
    assert said == UserEvent(ADA, MOMENT, created=True)


def test_a_signature_is_that_of_the_extension_and_of_this_body_alone() -> None:
    body = '{"type": "REGISTER", "name": "Zoë"}'.encode()
    good = signature_of("ofj09saP4", body)
    assert good == "9ca3f700fc3d1375afa341c4bdeafc38bc5a1a1674eae499d0e7a52ba438bfbe", "openssl"
    assert is_signed("ofj09saP4", body, good)
    for wrong in ("", good[:-1], good.upper(), "é" * 64, f"sha256={good}", good + "0"):
        assert not is_signed("ofj09saP4", body, wrong)
    assert not is_signed("ofj09saP4", body + b" ", good)
    assert not is_signed("another secret", body, good)
