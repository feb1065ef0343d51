"""The application: every resource, and every error as a problem. Nothing else is in here."""

from __future__ import annotations

from typing import Any

import asyncpg
import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from faregate.events.fields import ID_PATTERN, ID_RULE
from faregate.gateway.answers import rejection
from faregate.gateway.byok import routes as byok
from faregate.gateway.callers import GuardedRoute
from faregate.gateway.context import Gateway
from faregate.gateway.express import Express
from faregate.gateway.identity.keyring import KeysUnavailable
from faregate.gateway.lago import routes as lago
from faregate.gateway.llm import routes as llm
from faregate.gateway.middleware import Edge
from faregate.gateway.openapi import document
from faregate.gateway.problems import REASONS, Problem
from faregate.gateway.resources import (
    admin_credits,
    admin_dlq,
    admin_fraud,
    admin_settings,
    auth,
    balance,
    health,
    holds,
    identity_webhook,
    org_credits,
    orgs,
    spending,
    usage,
)
from faregate.gateway.settings import GatewaySettings
from faregate.ledger.core import Rejected
from faregate.ledger.database import TRANSIENT
from faregate.ledger.store import BadValue

log = structlog.get_logger("faregate.gateway")

RESOURCES = (
    spending,
    holds,
    llm,
    balance,
    usage,
    org_credits,
    orgs,
    health,
    auth,
    byok,
    identity_webhook,
    admin_credits,
    admin_settings,
    admin_dlq,
    lago,
    admin_fraud,
)
"""All there is, what is called most often first: routes are looked through in this order."""

_AWAY = (
    *TRANSIENT,
    asyncpg.InvalidCatalogNameError,
    asyncpg.UndefinedTableError,
    KeysUnavailable,
)
"""What means that a server cannot be asked now: 503, and nothing is allowed."""

_BY_STATUS = {404: "not_found", 405: "method_not_allowed"}


def create_app(gateway: Gateway) -> FastAPI:
    """Build the application of one process."""
    app = bare_app(gateway.settings)
    app.state.gateway = gateway
    routes = [route for resource in RESOURCES for route in resource.router.routes]
    app.add_middleware(Express, routes=routes, handlers=app.exception_handlers)
    if gateway.settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(gateway.settings.cors_origins),
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=[
                "Authorization",
                "Content-Type",
                "Idempotency-Key",
                "X-BYOK-Provider",
                "X-Faregate-Org",
            ],
            expose_headers=["Retry-After", "X-Credits-Charged", "X-Credits-Remaining"],
        )
    app.add_middleware(Edge, settings=gateway.settings, metrics=gateway.metrics)
    return app


def bare_app(settings: GatewaySettings) -> FastAPI:
    """Build the routes alone: what the OpenAPI document is made of."""
    docs = settings.docs
    app = FastAPI(
        title="Faregate",
        version="1",
        summary="Prepaid credits: ask before you run, pay as you run.",
        docs_url="/docs" if docs else None,
        redoc_url=None,
        openapi_url="/openapi.json" if docs else None,
        redirect_slashes=False,
        # It records paths, queries and what exceptions say; our own is in `middleware`.
        telemetry={"auto_configure": False, "tracing": False, "metrics": False, "logs": False},
    )
    app.router.route_class = GuardedRoute
    for resource in RESOURCES:
        app.include_router(resource.router)
    app.openapi = lambda: document(app)  # type: ignore[method-assign]
    _answer_errors(app)
    return app


def _answer_errors(app: FastAPI) -> None:
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Rejected, _rejected)
    for refused in (BadValue, asyncpg.DataError, UnicodeEncodeError):
        app.add_exception_handler(refused, _bad_value)
    for kind in _AWAY:
        app.add_exception_handler(kind, _unavailable)


async def _problem(request: Request, error: Any) -> Response:
    problem: Problem = error
    return problem.to(request.scope).response()


async def _invalid(_request: Request, error: Any) -> Response:
    errors = [_field(e) for e in error.errors()[:20]]
    detail = "; ".join(f"{e['field']}: {e['message']}" for e in errors)
    return Problem("validation_failed", detail, errors=errors).response()


def _field(error: dict[str, Any]) -> dict[str, str]:
    """Name a field as its sender knows it, and never repeat its value."""
    place, *path = (str(part) for part in error["loc"])
    name, message = ".".join(path) or place, str(error["msg"]).removeprefix("Value error, ")
    if error.get("ctx", {}).get("pattern") == ID_PATTERN:
        message = f"must be {ID_RULE}"
    return {"field": name, "message": message}


async def _http(request: Request, error: Any) -> Response:
    reason = _BY_STATUS.get(error.status_code)
    if reason is None:
        reason = "validation_failed" if error.status_code < 500 else "internal"  # noqa: PLR2004
    text, headers = f"{REASONS[reason].title}.", error.headers
    if reason == "method_not_allowed":
        headers = {"Allow": ", ".join(sorted(_methods(request.url.path)))}
    return Problem(reason, text, headers=headers).response()


def _methods(path: str) -> set[str]:
    """Give the methods of all routes that have this path; the framework knows of the first."""
    routes = (r for resource in RESOURCES for r in resource.router.routes)
    fitting = (r for r in routes if isinstance(r, APIRoute) and r.path_regex.match(path))
    return {method for route in fitting for method in route.methods or ()}


async def _rejected(_request: Request, error: Any) -> Response:
    return rejection(error).response()


async def _bad_value(_request: Request, _error: Exception) -> Response:
    return Problem("validation_failed", "A value of this request cannot be stored.").response()


async def _unavailable(request: Request, error: Exception) -> Response:
    log.warning("unavailable", error=type(error).__name__)
    detail = "The database or the issuer does not answer; nothing was decided."
    problem = Problem("check_unavailable", detail, headers={"Retry-After": "1"})
    return problem.to(request.scope).response()
