"""Plays flows against a gateway, and gives the report."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from time import perf_counter

from faregate.runtime.flows.admin import Admin
from faregate.runtime.flows.books import Books, opened
from faregate.runtime.flows.byok import Byok
from faregate.runtime.flows.client import Aborted, Client, Person, Reply, connect, said
from faregate.runtime.flows.edges import Edges
from faregate.runtime.flows.flow import Flow
from faregate.runtime.flows.individual import Individual
from faregate.runtime.flows.organization import Organization
from faregate.runtime.flows.records import FlowResult, Report, StepResult
from faregate.runtime.flows.target import Target
from faregate.runtime.flows.timings import timings
from faregate.runtime.flows.world import World
from faregate.runtime.servers import ServerMissing

FLOWS: dict[str, type[Flow]] = {
    flow.name: flow for flow in (Individual, Organization, Byok, Admin, Edges)
}
"""Every flow by name, in the order they are played."""

OnStep = Callable[[FlowResult, StepResult], None]
_OK, _FAULT = 200, 500


class NoAdmin(Exception):
    """The gateway does not take who was given as an admin."""

    code = "no_admin"
    fix = "make one with: faregate users create EMAIL --admin"


def _quiet(_flow: FlowResult, _step: StepResult) -> None:
    return


async def run(target: Target, names: Sequence[str], on_step: OnStep = _quiet) -> Report:
    """Play the named flows; `on_step` is told after each step.

    Raises ServerMissing when no gateway answers or the ledger cannot be opened, NoAdmin. What goes
    wrong after that is in the report.
    """
    began = perf_counter()
    async with _ledger(target) as books:
        client = connect(target.url)
        async with client.http:
            report = Report(
                target.url, await _version(client), datetime.now(UTC), books is not None
            )
            admin = await _admin(client, target)
            world = World(client, admin, books, target.own, target.own_key)
            for name in names:
                report.flows.append(await FLOWS[name](world, on_step).play())
    report.timings = timings(call for _, step in report.steps for call in step.calls)
    report.seconds = round(perf_counter() - began, 2)
    return report


@asynccontextmanager
async def _ledger(target: Target) -> AsyncIterator[Books | None]:
    if target.database is None:
        yield None
        return
    async with opened(target.database) as books:
        yield books


async def _version(client: Client) -> str:
    """Ask the gateway what it is. Raises ServerMissing when it is none."""
    try:
        found = await client.call("GET", "/health")
        if found.status == _OK:
            return str(found["version"])
        what = f"answers /health with {found.status}"
    except Aborted as error:
        what = "does not answer" if error.call and error.call.status is None else "is no gateway"
    raise ServerMissing(
        f"what is at {client.http.base_url} {what}",
        "start a gateway with `faregate serve --port 8080`, or leave --url out",
    )


async def _admin(client: Client, target: Target) -> Person | None:
    """Sign the admin in. Raises NoAdmin."""
    token = target.token
    try:
        if target.login is not None:
            body = {"username": target.login.email, "password": target.login.password}
            answer = await client.call("POST", "/api/auth/login", body)
            _require_able(answer)
            if answer.status != _OK:
                raise NoAdmin(f"{target.login.email} cannot sign in: {said(answer)}")
            token = str(answer["access_token"])
        if token is None:
            return None
        admin = Person(client, "the admin", token)
        allowed = await admin.get("/v1/admin/tiers")
    except Aborted as error:
        raise NoAdmin(f"the gateway did not say who the admin is: {error.came}") from error
    _require_able(allowed)
    if allowed.status != _OK:
        raise NoAdmin(f"who was given is no platform admin: {said(allowed)}")
    return admin


def _require_able(reply: Reply) -> None:
    """Raise ServerMissing for a gateway that cannot decide anything now."""
    if reply.status >= _FAULT:
        raise ServerMissing(
            f"the gateway answers {said(reply)}", "see its /ready, and its log, for what is away"
        )
