"""Who calls, and whether they may: every route has exactly one rule, and none means no route.

A rule is a dependency of its route: `caller: Caller = Depends(spending)`. Routes are made by
`GuardedRoute`, which refuses one without a rule when the application is built.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Annotated, Any
from uuid import UUID

from fastapi import Depends, Request, Response
from fastapi.routing import APIRoute

from faregate.gateway.context import Gateway, gateway_of
from faregate.gateway.holders import Holder
from faregate.gateway.identity.tokens import Claims
from faregate.gateway.invitations import accept_invitations
from faregate.gateway.membership import REMOVED
from faregate.gateway.parsing import parse_json
from faregate.gateway.problems import Problem
from faregate.gateway.settings import ADMIN, MANAGE, READ, SPEND
from faregate.ledger.core import Rejected

_ORG_HEADER = "x-faregate-org"
_KEY_HEADER = "idempotency-key"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who a verified token is about. `user` is their account in the ledger."""

    user_id: str
    scopes: frozenset[str]

    @property
    def user(self) -> str:
        """Their own account."""
        return f"user:{self.user_id}"

    @property
    def is_admin(self) -> bool:
        """Whether they are a platform admin."""
        return ADMIN in self.scopes


@dataclass(frozen=True, slots=True)
class Payer:
    """Who calls, and the org that the call is for: subjects, as the ledger has them.

    `ways` are who this call says is to pay (an org, or themselves; None where it does not say), and
    who else it may have said when it was made first: whoever names nobody is the same caller after
    they have joined or left an org, and what they did not say before they can still say.
    `refused`: why the call may not be made, so that it can only be the repeat of one that was.
    `has_left`: the caller is not in `org` now.
    """

    caller: Caller
    org: str | None
    ways: Sequence[str | None] = (None,)
    refused: Problem | None = None
    has_left: bool = False

    def refuse(self, answered: object) -> None:
        """Raise the Problem that stands in the way, if the call turned out to be no repeat."""
        if self.refused and isinstance(answered, Rejected) and answered.code == "never_begun":
            raise self.refused

    @property
    def user(self) -> str:
        """The caller's own account."""
        return self.caller.user


class Rule:
    """A dependency that lets callers with a scope in; None: everybody, without a token."""

    def __init__(self, scope: str | None) -> None:
        self.scope = scope

    async def __call__(self, request: Request) -> Caller | None:
        """Give the caller. Raises Problem `unauthenticated`, `forbidden`."""
        if self.scope is None:
            return None
        caller = await authenticate(request)
        if self.scope not in caller.scopes:
            raise Problem("forbidden", f"This takes the scope {self.scope}.")
        return caller


async def authenticate(request: Request) -> Caller:
    """Verify the bearer token. Raises Problem `unauthenticated`."""
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "bearer" or not token.strip():
        raise Problem("unauthenticated", "There is no bearer token in the Authorization header.")
    gateway, token = gateway_of(request), token.strip()
    claims = gateway.verifier.known(token)
    if claims is None:
        claims = await gateway.verifier.verify(token)
        if claims.email is not None and await _is_theirs(gateway, claims, claims.email):
            await accept_invitations(gateway, claims.user_id, claims.email)
        gateway.verifier.remember(token, claims)
    return Caller(claims.user_id, claims.scopes)


async def _is_theirs(gateway: Gateway, claims: Claims, email: str) -> bool:
    """Note a verified address that a token has shown; tell whether it is the user's still."""
    if gateway.issuer is None:
        return True
    return await gateway.outside.note(claims.user_id, email, claims.issued_at)


anyone, reading, spending, managing, administering = (
    Rule(scope) for scope in (None, READ, SPEND, MANAGE, ADMIN)
)

Public = Depends(anyone)
Reader = Annotated[Caller, Depends(reading)]
Spender = Annotated[Caller, Depends(spending)]
Manager = Annotated[Caller, Depends(managing)]
Admin = Annotated[Caller, Depends(administering)]


async def payer_of(request: Request, caller: Caller) -> Payer:
    """Give who pays for a call: the header's org, else the caller's only one, else they themselves.

    The header may name the caller's own account as well (`user:<their id>`): who was made a member
    of an org can still spend what is theirs. `refused` are `org_ambiguous` (400) and `not_a_member`
    (403).
    """
    named = request.headers.get(_ORG_HEADER)
    if named == caller.user:
        return Payer(caller, None, (named, None))
    ever = await gateway_of(request).memberships.ever(caller.user_id)
    orgs = [f"org:{org}" for org, role in ever.items() if role != REMOVED]
    if named is not None:
        named = f"org:{named.removeprefix('org:')}"
        if named in orgs:
            return Payer(caller, named, (named, None))
        problem = Problem("not_a_member", "You are not a member of the org in X-Faregate-Org.")
        return Payer(caller, None, (named, None), problem)
    can_repeat = _KEY_HEADER in request.headers
    ways = (None, *(f"org:{org}" for org in ever), caller.user) if can_repeat else (None,)
    if len(orgs) > 1:
        problem = Problem("org_ambiguous", "You belong to several organizations.")
        return Payer(caller, None, ways, problem)
    return Payer(caller, orgs[0] if orgs else None, ways)


class PayerRule(Rule):
    """A rule that also finds out which org the call is for: one dependency, not three."""

    def __init__(self, scope: str, *, unless: Callable[[Request], bool] | None = None) -> None:
        """`unless`: which calls are let in though their payer is refused; they must ask it."""
        super().__init__(scope)
        self._unless = unless

    async def __call__(self, request: Request) -> Payer:  # type: ignore[override]
        """Give caller and org. Raises Problem as `Rule` does, and what `payer_of` refuses."""
        caller = await super().__call__(request)
        if caller is None:
            raise TypeError("a rule about who pays needs a scope")
        payer = await payer_of(request, caller)
        if payer.refused and not (self._unless and self._unless(request)):
            raise payer.refused
        return payer


class HolderRule(Rule):
    """A rule for what is done with a hold: it is for the org that it was made for.

    Which one a header names is not asked: what was used has been used, also by a member who was
    removed since, up to what they held, or by one who has joined another org.
    """

    async def __call__(self, request: Request, hold_id: UUID) -> Payer:  # type: ignore[override]
        """Give caller and org; who has no such hold is told so when it is looked for."""
        caller = await super().__call__(request)
        if caller is None:
            raise TypeError("a rule about who pays needs a scope")
        holder = await gateway_of(request).holders.of(hold_id)
        return holding(caller, holder)


def holding(caller: Caller, holder: Holder | None) -> Payer:
    """Give who acts on a hold; without an org where it is not the caller's."""
    is_theirs = holder is not None and holder.user == caller.user
    if holder is None or not is_theirs:
        return Payer(caller, None)
    return Payer(caller, holder.org, has_left=holder.has_left)


ReadingPayer = Annotated[Payer, Depends(PayerRule(READ))]
SpendingPayer = Annotated[Payer, Depends(PayerRule(SPEND))]
RepeatingPayer = Annotated[
    Payer, Depends(PayerRule(SPEND, unless=lambda request: _KEY_HEADER in request.headers))
]
"""For calls that may be repeats of what was done before the caller left an org or joined another."""

PartsPayer = Annotated[Payer, Depends(PayerRule(SPEND, unless=lambda _: True))]
"""For calls of several parts, not all of which ask who pays."""
HoldPayer = Annotated[Payer, Depends(HolderRule(SPEND))]


async def require_role(
    gateway: Gateway, caller: Caller, org_id: str, *, admin: bool, reads: bool = False
) -> str:
    """Check a caller's role in an org and give it; platform admins may do everything.

    Raises Problem `not_a_member` (also where there is no such org: who belongs to none learns
    nothing about it), `forbidden`; to platform admins, where it `reads`, `account_not_found`.
    """
    if caller.is_admin:
        if reads and await gateway.store.names.find(f"org:{org_id}") is None:
            raise Problem("account_not_found", "There is no such organization.")
        return "admin"
    role = (await gateway.memberships.of(caller.user_id)).get(org_id)
    if role is None:
        raise Problem("not_a_member", "You are not a member of this organization.")
    if admin and role != "admin":
        raise Problem("forbidden", "Only admins of the organization may do this.")
    return role


class StrictRequest(Request):
    """A request whose JSON is read exactly and within bounds."""

    async def parse(self) -> None:
        """Read the body, so that `json` gives it. Raises Problem `validation_failed`."""
        body = await self.body()
        if body:
            self._json = parse_json(body, gateway_of(self).settings.max_depth)


class GuardedRoute(APIRoute):
    """A route that has a rule, and reads JSON strictly."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        if len(rules_of(self)) != 1:
            raise TypeError(f"{path} needs exactly one authorization rule")

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap the handler so that it sees a strict request."""
        handler = super().get_route_handler()

        async def strict(request: Request) -> Response:
            has_body = "content-length" in request.headers or "transfer-encoding" in request.headers
            read = StrictRequest(request.scope, request.receive)
            try:
                await self.arrived(read)
                if has_body and self.body_field is not None:
                    require_json(request)
                    await read.parse()
                return await handler(read)
            except Problem as problem:
                self.explain(problem)
                raise

        return strict

    async def arrived(self, request: StrictRequest) -> None:
        """Wait for what a call needs of its request; most wait where they read it."""

    def explain(self, problem: Problem) -> None:
        """Add what the callers of this route look for in a problem."""


def require_json(request: Request) -> None:
    """Check what a body says it is. Raises Problem `unsupported_media_type`."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json")):
        return
    if request.headers.get("content-length") == "0":
        return
    raise Problem("unsupported_media_type")


def rules_of(route: APIRoute) -> list[Rule]:
    """Find the rules among a route's dependencies, however deep."""
    found: list[Rule] = []
    waiting = list(route.dependant.dependencies)
    while waiting:
        one = waiting.pop()
        if isinstance(one.call, Rule) and one.call not in found:
            found.append(one.call)
        waiting.extend(one.dependencies)
    return found


__all__ = [
    "Admin",
    "Caller",
    "GuardedRoute",
    "HoldPayer",
    "Manager",
    "PartsPayer",
    "Payer",
    "Public",
    "Reader",
    "ReadingPayer",
    "RepeatingPayer",
    "Rule",
    "Spender",
    "SpendingPayer",
    "anyone",
    "authenticate",
    "holding",
    "payer_of",
    "require_json",
    "require_role",
    "rules_of",
]
