"""The gateway as its callers see it; everything that is asked of it is written down.

Each call has a correlation id. It goes out as the trace id of `traceparent`, and for calls that
change something as `Idempotency-Key`: so it is in the ledger's references as well.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from secrets import token_hex
from time import perf_counter
from typing import Any

import httpx

from faregate.runtime.flows.records import Call

TIMEOUT_S = 60.0
CONNECTIONS = 20
_SECRETS = frozenset({"password", "api_key", "access_token"})
_MASK = "***"
_MOST_TEXT = 2_000
_ID = re.compile(r"(?<=/)[0-9a-f]{8}-[0-9a-f-]{27}(?=/|$)")


class Aborted(Exception):
    """A step cannot go on: what was expected, what came, and by which call."""

    def __init__(self, what: str, expected: Any, came: Any, call: Call | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.expected = expected
        self.came = came
        self.call = call


class NotHere(Exception):
    """Something cannot be done here; the message says why. It is no fault of the gateway."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer. `json` is None where there is none."""

    call: Call
    status: int
    json: Any
    headers: Mapping[str, str]

    def __getitem__(self, name: str) -> Any:
        """Give a member of the answer. Raises Aborted where there is none."""
        if isinstance(self.json, dict) and name in self.json:
            return self.json[name]
        place = f"{self.call.method} {self.call.path}"
        raise Aborted(f"{place} answers with {name!r}", "a value", said(self), self.call)

    @property
    def reason(self) -> str | None:
        """The reason of a problem."""
        return self.json.get("reason") if isinstance(self.json, dict) else None

    def number(self, header: str) -> float | None:
        """Read a header as a number; None where there is none, or it is not one."""
        try:
            return float(self.headers[header])
        except (KeyError, ValueError):
            return None


def said(reply: Reply) -> str:
    """Write an answer in a few words: its status, and the reason of a problem."""
    return f"{reply.status} {reply.reason}" if reply.reason else str(reply.status)


@dataclass(slots=True)
class Client:
    """Calls a gateway. `calls` is where they are written down: the list of the step under way."""

    http: httpx.AsyncClient
    calls: list[Call] = field(default_factory=list)
    secrets: set[str] = field(default_factory=set, repr=False)
    """What is masked wherever it is found, besides fields that are secret by their name."""

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
        timed: str | None = None,
    ) -> Reply:
        """Call it. Raises Aborted when no answer comes."""
        call = Call(method, path, masked(body, self.secrets), token_hex(16), timed)
        self.calls.append(call)
        sent = {"traceparent": f"00-{call.correlation_id}-{token_hex(8)}-01"}
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        if method != "GET":
            sent["Idempotency-Key"] = call.correlation_id
        sent.update(headers or {})
        began = perf_counter()
        try:
            answer = await self.http.request(method, path, json=body, headers=sent)
        except httpx.HTTPError as error:
            came = f"{type(error).__name__}: {error}".rstrip(": ")
            raise Aborted(f"{method} {path} is answered", "an answer", came, call) from error
        finally:
            call.ms = (perf_counter() - began) * 1000
        call.status = answer.status_code
        value = _json(answer)
        shown = answer.text[:_MOST_TEXT] if value is None else value
        call.answer = masked(shown, self.secrets)
        return Reply(call, answer.status_code, value, answer.headers)


def connect(url: str) -> Client:
    """Make a client of the gateway at `url`."""
    limits = httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
    return Client(
        httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S, limits=limits, trust_env=False)
    )


@dataclass(slots=True)
class Person:
    """Somebody who calls, with their token."""

    client: Client
    name: str
    token: str | None = None
    user_id: str = ""
    email: str = ""

    @property
    def subject(self) -> str:
        """Their own account, as the ledger has it."""
        return f"user:{self.user_id}"

    async def get(self, path: str, **more: Any) -> Reply:
        """Read something."""
        return await self.client.call("GET", path, token=self.token, **more)

    async def post(self, path: str, body: Any = None, **more: Any) -> Reply:
        """Do something."""
        return await self.client.call("POST", path, body, token=self.token, **more)

    async def delete(self, path: str, **more: Any) -> Reply:
        """Take something away."""
        return await self.client.call("DELETE", path, token=self.token, **more)


def masked(value: Any, secrets: Collection[str] = ()) -> Any:
    """Give a copy of JSON without secrets: fields that are by their name, and those given."""
    if isinstance(value, dict):
        return {k: _MASK if k in _SECRETS and v else masked(v, secrets) for k, v in value.items()}
    if isinstance(value, list):
        return [masked(one, secrets) for one in value]
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret, _MASK)
    return value


def route_of(call: Call) -> str:
    """Give the path of a call with its ids taken out, to count calls by."""
    return _ID.sub("{id}", call.path.partition("?")[0])


def _json(answer: httpx.Response) -> Any:
    if "json" not in answer.headers.get("content-type", ""):
        return None
    try:
        return answer.json()
    except ValueError:
        return None
