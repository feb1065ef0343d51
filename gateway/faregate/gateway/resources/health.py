"""Whether the process lives, whether it can work, what it measures."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from faregate.gateway.callers import GuardedRoute, Public
from faregate.gateway.context import gateway_of
from faregate.gateway.fields import Answer
from faregate.gateway.problems import Problem, responses

router = APIRouter(route_class=GuardedRoute, tags=["Health"], dependencies=[Public])


class Health(Answer):
    """The process is alive."""

    status: str
    version: str


class Version(Answer):
    """Which version answers."""

    version: str


class Readiness(Answer):
    """The servers that it needs, one by one."""

    ready: bool
    checks: dict[str, Any]


@router.get("/health")
async def health(request: Request) -> Health:
    """Tell that the process is alive; asks no server."""
    return Health(status="ok", version=gateway_of(request).settings.version)


@router.get("/api/version")
async def version(request: Request) -> Version:
    """Tell the version."""
    return Version(version=gateway_of(request).settings.version)


@router.get("/ready", responses=responses(503))
async def ready(request: Request) -> Readiness:
    """Tell whether Kafka and the database answer, and how far the consumers are behind."""
    checks = dict(await gateway_of(request).probe())
    if not all(check.get("ok") for check in checks.values()):
        away = " and ".join(name for name, check in checks.items() if not check.get("ok"))
        raise Problem("check_unavailable", f"Not ready: {away}.", checks=checks)
    return Readiness(ready=True, checks=checks)


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(request: Request) -> Response:
    """Give the metrics in Prometheus' text format."""
    gateway = gateway_of(request)
    gateway.metrics.found(await gateway.probe())
    return Response(gateway.metrics.text(), media_type=CONTENT_TYPE_LATEST)
