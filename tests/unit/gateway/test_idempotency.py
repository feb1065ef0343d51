"""Every unsafe route takes an Idempotency-Key, and says so."""

from __future__ import annotations

import json

from fastapi.dependencies.models import Dependant
from tests.helpers.routes import application, routes

from faregate.gateway import idempotency
from faregate.gateway.byok.sealing import fingerprint, master_key, new_master_key
from faregate.gateway.openapi import document

UNSAFE = {"POST", "PUT", "PATCH", "DELETE"}
EXEMPT = {
    # Questions: nothing happens, however often they are asked.
    "POST /api/credits/check",
    "POST /api/v1/credits/calculate",
    # Signed messages of other systems, which send no such header: a repeat is known by the ids and
    # the state that the message itself names.
    "POST /webhooks/identity",
    "POST /webhooks/lago",
}


def takes_a_key(dependant: Dependant) -> bool:
    return dependant.call is idempotency._key or any(map(takes_a_key, dependant.dependencies))


def test_every_unsafe_route_takes_an_idempotency_key_or_is_exempt() -> None:
    found = {name: takes_a_key(r.dependant) for name, r in routes().items() if r.methods & UNSAFE}  # type: ignore[operator]
    assert {name for name, takes in found.items() if not takes} == EXEMPT


def test_the_document_names_the_header_and_the_conflict_on_each_of_them() -> None:
    described = document(application())["paths"]
    for name, route in routes().items():
        method, path = name.split()
        operation = described[path][method.lower()]
        said = [p for p in operation.get("parameters", ()) if p["name"] == "idempotency-key"]
        if not takes_a_key(route.dependant):
            assert said == []
            continue
        (header,) = said
        assert "(409)" in header["description"]
        assert (header["in"], header["required"]) == ("header", False)
        assert "idempotency_conflict" in operation["responses"]["409"]["description"], name


def test_a_fingerprint_of_a_secret_tells_nothing_without_the_master_key() -> None:
    one, other = master_key(new_master_key()), master_key(new_master_key())
    assert fingerprint(one, "sk-secret") == fingerprint(one, "sk-secret")
    assert fingerprint(one, "sk-secret") != fingerprint(one, "sk-secret2")
    assert fingerprint(one, "sk-secret") != fingerprint(other, "sk-secret")
    assert "sk-secret" not in json.dumps(fingerprint(one, "sk-secret"))
