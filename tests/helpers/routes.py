"""The routes of the application, as it really has them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute

from faregate.gateway.app import bare_app
from faregate.gateway.settings import GatewaySettings


def application() -> FastAPI:
    """Make the application without a gateway behind it."""
    return bare_app(GatewaySettings())


def every_route(within: Any) -> Iterator[BaseRoute]:
    """Yield the routes of an application or router, those of included routers too."""
    for route in within.routes:
        included = getattr(route, "original_router", None)
        if included is None:
            yield route
        else:
            yield from every_route(included)


def name(route: APIRoute) -> str:
    """Name a route: `POST /api/v1/org`."""
    return f"{min(route.methods or ())} {route.path}"


def routes() -> dict[str, APIRoute]:
    """Give all routes by name."""
    return {name(r): r for r in every_route(application()) if isinstance(r, APIRoute)}
