"""Routes as plain functions: what FastAPI finds out anew for each call is found out once.

A route that takes nothing but a caller, headers, a path and a body of JSON is answered here. FastAPI
goes on to say what routes there are and to check their values; whatever is out of the ordinary (no
body, another media type, a value that is not valid) goes on to it, with the body that was read, so
that every error is answered in one place.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from inspect import iscoroutinefunction
from typing import Any

from fastapi import Request, Response
from fastapi.datastructures import DefaultPlaceholder
from fastapi.dependencies.models import Dependant
from fastapi.params import Body
from fastapi.routing import APIRoute
from starlette.convertors import StringConvertor
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from faregate.gateway.callers import GuardedRoute, StrictRequest
from faregate.gateway.problems import Problem

Handler = Callable[[Request, Any], Awaitable[Response]]
_JSON = b"application/json"
_PLAIN = frozenset({"application/json", "application/json; charset=utf-8"})
_BODILESS = frozenset({204, 304})


class _Odd(Exception):
    """Not an ordinary call."""


class Express:
    """Answers ordinary calls of simple routes, and hands everything else on."""

    def __init__(
        self, app: ASGIApp, routes: Iterable[BaseRoute], handlers: Mapping[Any, Any]
    ) -> None:
        self._app = app
        self._handlers = handlers
        self._by_path: dict[tuple[str, str], Ready] = {}
        self._by_pattern: list[Ready] = []
        for route in routes:
            if (ready := prepared(route)) is None:
                continue
            if ready.route.param_convertors:
                self._by_pattern.append(ready)
                continue
            for method in ready.methods:
                self._by_path[method, ready.route.path] = ready

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one call."""
        ready, params = self._find(scope)
        if ready is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = ready.route
        request = StrictRequest(scope, receive, send)
        try:
            value = await ready.call(request, params)
        except _Odd:
            await self._app(scope, _again(await request.body(), receive), send)
            return
        except Exception as error:
            handler = self._handler_of(error)
            if handler is None:
                raise
            value = await handler(request, error)
        if isinstance(value, Response):
            await value(scope, receive, send)
        else:
            await _send(send, ready.status, ready.written(value))

    def _find(self, scope: Scope) -> tuple[Ready | None, Mapping[str, str]]:
        if scope["type"] != "http":
            return None, {}
        method, path = scope["method"], scope["path"]
        ready = self._by_path.get((method, path))
        if ready is not None:
            return ready, {}
        for ready in self._by_pattern:
            if method in ready.methods and (found := ready.route.path_regex.match(path)):
                return ready, found.groupdict()
        return None, {}

    def _handler_of(self, error: Exception) -> Handler | None:
        return next((h for k in type(error).__mro__ if (h := self._handlers.get(k))), None)


def _again(body: bytes, receive: Receive) -> Receive:
    """Give a body that was read once more, then what comes after it."""
    parts: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receiving() -> Message:
        return parts.pop() if parts else await receive()

    return receiving


async def _send(send: Send, status: int, content: bytes) -> None:
    headers = [(b"content-length", str(len(content)).encode()), (b"content-type", _JSON)]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})


@dataclass(frozen=True, slots=True)
class _Plan:
    """How a function of a route is called: by name, what it takes."""

    call: Callable[..., Awaitable[Any]]
    request: str | None
    paths: tuple[tuple[str, Any], ...]
    headers: tuple[tuple[str, str, Any], ...]
    dependencies: tuple[tuple[str | None, _Plan], ...]

    async def values(self, request: Request, params: Mapping[str, str]) -> dict[str, Any]:
        """Give its arguments. Raises _Odd, and what dependencies raise."""
        values: dict[str, Any] = {}
        for name, plan in self.dependencies:
            value = await plan.call(**await plan.values(request, params))
            if name is not None:
                values[name] = value
        for name, field in self.paths:
            values[name] = _valid(field, params[name])
        for name, header, field in self.headers:
            said = request.headers.get(header)
            if said is None and field.field_info.is_required():
                raise _Odd
            values[name] = field.get_default() if said is None else _valid(field, said)
        if self.request is not None:
            values[self.request] = request
        return values


def _valid(field: Any, said: Any) -> Any:
    value, errors = field.validate(said)
    if errors:
        raise _Odd
    return value


@dataclass(frozen=True, slots=True)
class Ready:
    """A route that is answered here."""

    route: GuardedRoute
    plan: _Plan
    body: str | None
    """The parameter that takes the body."""
    status: int

    @property
    def methods(self) -> set[str]:
        """Its methods."""
        return self.route.methods or set()

    async def call(self, request: StrictRequest, params: Mapping[str, str]) -> Any:
        """Call the route's function. Raises _Odd before it is called, and what it raises."""
        try:
            await self.route.arrived(request)
            return await self._called(request, params)
        except Problem as problem:
            self.route.explain(problem)
            raise

    async def _called(self, request: StrictRequest, params: Mapping[str, str]) -> Any:
        said: Any = None
        if self.body is not None:
            if request.headers.get("content-type") not in _PLAIN or not await request.body():
                raise _Odd
            await request.parse()
            said = await request.json()
        values = await self.plan.values(request, params)
        if self.body is not None:
            values[self.body] = _valid(self.route.body_field, said)
        return await self.plan.call(**values)

    def written(self, value: Any) -> bytes:
        """Write what the function gave."""
        field: Any = self.route.response_field
        content: bytes = field.serialize_json(value)
        return content


def prepared(route: BaseRoute) -> Ready | None:
    """Prepare a route; None for one that takes or gives something else than most do."""
    if not isinstance(route, GuardedRoute) or not _answers_plainly(route):
        return None
    plan, bodies = _plan(route.dependant), route.dependant.body_params
    if plan is None or len(bodies) > 1 or (route.body_field is None) != (not bodies):
        return None
    if any(type(b.field_info) is not Body or b.field_info.embed for b in bodies):
        return None
    if any(type(c) is not StringConvertor for c in route.param_convertors.values()):
        return None
    return Ready(route, plan, bodies[0].name if bodies else None, route.status_code or 200)


def _answers_plainly(route: APIRoute) -> bool:
    leaves_out = (
        route.response_model_include,
        route.response_model_exclude,
        route.response_model_exclude_unset,
        route.response_model_exclude_defaults,
        route.response_model_exclude_none,
        not route.response_model_by_alias,
        route.status_code in _BODILESS,
    )
    has_field = route.response_field is not None
    is_json = isinstance(route.response_class, DefaultPlaceholder) and has_field
    is_made = route.response_class is Response and not has_field  # by the function itself
    return (is_json or is_made) and not any(leaves_out)


def _plan(dependant: Dependant) -> _Plan | None:
    odd = (
        dependant.query_params,
        dependant.cookie_params,
        dependant.websocket_param_name,
        dependant.http_connection_param_name,
        dependant.response_param_name,
        dependant.background_tasks_param_name,
        dependant.security_scopes_param_name,
    )
    call = dependant.call
    if any(odd) or call is None or not _is_coroutine(call):
        return None
    plans = [(d.name, _plan(d)) for d in dependant.dependencies]
    ready = tuple((name, plan) for name, plan in plans if plan is not None)
    if len(ready) != len(plans) or any(d.body_params for d in dependant.dependencies):
        return None
    return _Plan(
        call,
        dependant.request_param_name,
        tuple((field.name, field) for field in dependant.path_params),
        tuple((field.name, field.alias, field) for field in dependant.header_params),
        ready,
    )


def _is_coroutine(call: Callable[..., Any]) -> bool:
    return iscoroutinefunction(call) or iscoroutinefunction(type(call).__call__)
