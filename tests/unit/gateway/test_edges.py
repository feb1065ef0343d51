"""The edges of the gateway that need no server: rules of routes, strict JSON, problems, documents."""

from __future__ import annotations

from decimal import Decimal
from time import perf_counter
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from starlette.routing import BaseRoute
from tests.helpers.routes import application, every_route

from faregate.gateway.app import bare_app
from faregate.gateway.callers import GuardedRoute, rules_of
from faregate.gateway.openapi import document, main
from faregate.gateway.parsing import parse_json
from faregate.gateway.problems import REASONS, Problem
from faregate.gateway.settings import ADMIN, GatewaySettings

PUBLIC = {
    "/health",
    "/ready",
    "/metrics",
    "/api/version",
    "/auth/register",
    "/api/auth/login",
    "/webhooks/identity",
    "/webhooks/lago",
}


@pytest.mark.parametrize(
    "route", [*every_route(application())], ids=lambda r: getattr(r, "path", "?")
)
def test_a_route_has_exactly_one_rule_and_only_these_are_open_to_all(route: BaseRoute) -> None:
    assert isinstance(route, GuardedRoute), "every route reads strictly, and has a rule"
    (rule,) = rules_of(route)
    assert (rule.scope is None) == (route.path in PUBLIC)
    if "/admin/" in route.path:
        assert rule.scope == ADMIN


def test_a_route_without_a_rule_cannot_be_made() -> None:
    router = APIRouter(route_class=GuardedRoute)
    with pytest.raises(TypeError, match="exactly one authorization rule"):
        router.get("/open")(lambda: None)


def test_a_router_of_another_kind_is_noticed() -> None:
    app, router = application(), APIRouter()
    router.get("/open")(lambda: None)
    app.include_router(router)
    app.mount("/files", FastAPI())
    odd = [r for r in every_route(app) if not isinstance(r, GuardedRoute)]
    assert [getattr(r, "path", None) for r in odd] == ["/open", "/files"]


def test_pages_about_the_interface_are_off_unless_they_are_asked_for() -> None:
    def paths(app: FastAPI) -> set[str]:
        return {str(getattr(r, "path", "")) for r in every_route(app)}

    assert not {"/docs", "/openapi.json", "/redoc"} & paths(bare_app(GatewaySettings()))
    assert {"/docs", "/openapi.json"} <= paths(bare_app(GatewaySettings(docs=True)))


def test_numbers_are_read_exactly() -> None:
    assert parse_json(b'{"credits": 0.1}', 5) == {"credits": Decimal("0.1")}
    assert parse_json(b'{"credits": 123456789.123456}', 5)["credits"] == Decimal("123456789.123456")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"a": NaN}', "NaN"),
        (b'{"a": Infinity}', "Infinity"),
        (b'{"a": -Infinity}', "Infinity"),
        (b'{"a": 1', "not valid JSON"),
        (b'{"a": "\xff"}', "UTF-8"),
        (b"[" * 6 + b"]" * 6, "deep"),
        (b'{"a":' * 6 + b"1" + b"}" * 6, "deep"),
        (b"[" * 100_000, "deep"),
        (b"1" * 5000, "digits"),
        (b"0." + b"1" * 5000, "digits"),
        (b'{"a": 1e99999999999999999999}', "exponent"),
        (b'{"a": 1, "b": {"c": 2, "c": 2}}', "twice"),
        (b'{"a": "\\ud800"}', "surrogate"),
        (b'{"\\uDC00": 1}', "surrogate"),
        (b'{"a": "' + b"[" * 50 + b"\\", "not valid JSON"),
        (b"[}" * 6, "not valid JSON"),
    ],
)
def test_what_is_not_plain_json_is_refused(body: bytes, said: str) -> None:
    with pytest.raises(Problem) as refused:
        parse_json(body, 5)
    assert refused.value.status == 400
    assert said in refused.value.detail


def test_brackets_within_texts_do_not_count() -> None:
    assert parse_json(b'{"a": "' + b"[" * 50 + b'\\"{{{{{{"}', 5)["a"].startswith("[[")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"a": "\\ud800"}', "a"),
        (b'{"a": [1, {"b": "x\\udfff"}]}', "a.1.b"),
        (b'{"a": {"\\ud800": 1}}', "a"),
        (b'{"a": {"b": 1, "b": 2}}', "b"),
    ],
)
def test_the_field_that_cannot_be_read_is_named(body: bytes, field: str) -> None:
    with pytest.raises(Problem) as refused:
        parse_json(body, 5)
    assert refused.value.more["errors"][0]["field"] == field


def test_a_pair_of_surrogates_is_a_character_like_any_other() -> None:
    assert parse_json(b'{"a": "\\ud83d\\ude00"}', 5) == {"a": "\U0001f600"}


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 40 + b'"' + b'\\"' * 500_000,
        b"[" * 40 + b'"' + b'a\\"' * 330_000 + b"\\",
        b"[" * 40 + b'"a' * 500_000,
        b"[" * 500_000 + b"]" * 500_000,
        b'{"credits": 0.' + b"1" * 1_000_000 + b"}",
        b'{"credits": ' + b"1" * 1_000_000 + b"}",
    ],
    ids=["quotes", "more quotes", "open texts", "brackets", "decimals", "digits"],
)
def test_a_body_that_is_made_to_take_long_does_not(body: bytes) -> None:
    began = perf_counter()
    with pytest.raises(Problem):
        parse_json(body, 32)
    assert perf_counter() - began < 2, "linear: 0.1 s; it was minutes"


@pytest.mark.parametrize("reason", REASONS)
def test_every_problem_says_what_it_is_and_what_would_help(reason: str) -> None:
    body = Problem(reason).body()
    assert body["status"] == REASONS[reason].status
    assert body["type"].endswith(reason)
    assert body["title"]
    assert body["detail"].endswith(".")
    assert body["help"].endswith(".")


def test_a_problem_of_the_token_says_how_to_send_one() -> None:
    assert Problem("unauthenticated").response().headers["www-authenticate"] == "Bearer"


def operations() -> list[tuple[str, dict[str, Any]]]:
    paths = document(bare_app(GatewaySettings()))["paths"]
    return [(f"{m} {p}", o) for p, methods in paths.items() for m, o in methods.items()]


@pytest.mark.parametrize(("name", "operation"), operations(), ids=[n for n, _ in operations()])
def test_the_document_says_how_a_call_can_fail(name: str, operation: dict[str, Any]) -> None:
    answers = operation["responses"]
    path = name.split()[1]
    assert "HTTPValidationError" not in str(operation)
    assert operation["summary"]
    assert "431" in answers
    if path in {"/health", "/metrics", "/api/version"}:
        return
    assert "503" in answers
    if path not in PUBLIC:
        assert {"401", "403"} <= set(answers)
        assert operation["security"] == [{"bearer": []}]
    if "requestBody" in operation:
        assert {"400", "408", "413", "415"} <= set(answers)
    for status, answer in answers.items():
        if status >= "400":
            assert "application/problem+json" in answer["content"]


def test_the_committed_document_is_that_of_the_routes() -> None:
    assert main(["--check"]) == 0, "run: make schemas"
