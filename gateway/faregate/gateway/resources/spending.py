"""Spending: check, calculate, deduct."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import Field, WithJsonSchema

from faregate.events.amounts import parse_credits
from faregate.gateway import commands
from faregate.gateway.answers import accepted, rejection
from faregate.gateway.callers import GuardedRoute, Reader, ReadingPayer, RepeatingPayer
from faregate.gateway.context import gateway_of
from faregate.gateway.fields import Amount, Answer, Body, Credits, Id, Note, Number, Tokens
from faregate.gateway.idempotency import Key
from faregate.gateway.problems import Problem, invalid, responses
from faregate.ledger import acts, pricing
from faregate.ledger.core import Rejected

router = APIRouter(route_class=GuardedRoute, tags=["Own credits"])

AMOUNT_REQUIRED = "Valid credits amount required"
_Loose = Annotated[
    Any,
    WithJsonSchema(
        {
            "type": "number",
            "exclusiveMinimum": 0,
            "exclusiveMaximum": 1_000_000_000,
            "description": "Credits, at most 6 decimals.",
            "examples": [12.5],
        }
    ),
]


class Check(Body):
    """How much must be covered; `credits` wins over `requiredCredits`."""

    credits: _Loose = None
    requiredCredits: _Loose = None  # noqa: N815 - the contract's name


class Checked(Answer):
    """Whether what the call would be paid from covers it."""

    sufficient: bool
    message: str


class Model(Body):
    """A call of a model: `tokens` count as input tokens where those are not said."""

    model: Id
    provider: Id | None = None
    tokens: Tokens | None = None
    input_tokens: Tokens | None = None
    output_tokens: Tokens | None = None


class Calculated(Answer):
    """What it would cost now."""

    credits: Credits
    vendor_cost_usd: Number | None = Field(description="What the provider takes, in USD.")
    price_version: int
    increment: Credits


class Deduction(Body):
    """Either `credits`, or a `model` with its tokens (which counts as a call)."""

    credits: Amount | None = None
    model: Id | None = None
    provider: Id | None = None
    tokens: Tokens | None = None
    input_tokens: Tokens | None = None
    output_tokens: Tokens | None = None
    reference: Id | None = Field(None, description="What the caller calls it.")
    description: Note | None = Field(None, description="For people; it is not kept.")


class Deducted(Answer):
    """What was taken, and the payer's balance after it."""

    entry_id: int
    credits: Credits
    balance: Credits
    payer: str
    price_version: int | None


@router.post("/api/credits/check", responses=responses(400, 401, 403, 413, 415, 503))
async def check(request: Request, payer: ReadingPayer, body: Check) -> Checked:
    """Tell whether what a call of the caller would be paid from covers an amount."""
    said = body.requiredCredits if body.credits is None else body.credits
    try:
        amount = parse_credits(said)
    except ValueError as error:
        errors = [{"field": "credits", "message": str(error)}]
        raise Problem("validation_failed", AMOUNT_REQUIRED, errors=errors) from None
    work = await gateway_of(request).snapshots.of((payer.user, payer.org))
    found = acts.coverage(work, payer.user, payer.org, amount)
    message = "Sufficient credits" if found.sufficient else "Insufficient credits"
    return Checked(sufficient=found.sufficient, message=message)


@router.post("/api/v1/credits/calculate", responses=responses(400, 401, 403, 413, 415, 422, 503))
async def calculate(request: Request, caller: Reader, body: Model) -> Calculated:
    """Say what a call would cost the caller by the prices in force; nothing is taken."""
    tokens = tokens_of(body)
    try:
        quote = await pricing.calculate(
            gateway_of(request).store,
            model=tokens.model,
            provider=tokens.provider,
            input_tokens=tokens.input_tokens,
            output_tokens=tokens.output_tokens,
            user=caller.user,
        )
    except Rejected as error:
        raise rejection(error) from None
    return Calculated(
        credits=quote.micro,
        vendor_cost_usd=_usd(quote.vendor_cost_usd),
        price_version=quote.price_version,
        increment=quote.increment_micro,
    )


@router.post(
    "/api/v1/credits/deduct", responses=responses(400, 401, 402, 403, 409, 413, 415, 422, 429, 503)
)
async def deduct(request: Request, payer: RepeatingPayer, key: Key, body: Deduction) -> Deducted:
    """Take credits, whole or not at all."""
    gateway = gateway_of(request)
    either("credits", body.credits, body.model)
    submission = commands.deduct(
        gateway,
        payer,
        key.of(payer.caller.user_id),
        amount=body.credits,
        tokens=tokens_of(body) if body.model else None,
        content=body.model_dump(mode="json"),
        reference=body.reference,
    )
    (answered,) = await gateway.store.answer([submission])
    payer.refuse(answered)
    stored = accepted(answered)
    account = str(stored.body["payer"])
    entry = stored.entry("usage", account)
    if entry is None:
        raise Problem("internal", "The deduction has no entry.")
    return Deducted(
        entry_id=entry.id,
        credits=stored.body["cost"],
        balance=entry.balance,
        payer=account,
        price_version=entry.price_version,
    )


def either(name: str, amount: object, model: object) -> None:
    """Require an amount or a model, not both. Raises Problem `validation_failed`."""
    if (amount is None) == (model is None):
        raise invalid(name, f"send either {name}, or a model with its tokens")


def tokens_of(body: Any) -> commands.Tokens:
    """Read the tokens of a body with a `model`. Raises Problem `validation_failed`."""
    counts = (body.tokens, body.input_tokens, body.output_tokens)
    if all(count is None for count in counts):
        raise invalid("tokens", "send tokens, or input_tokens and output_tokens")
    if body.tokens is not None and counts[1:] != (None, None):
        raise invalid("tokens", "send either tokens, or input_tokens and output_tokens")
    return commands.Tokens(
        body.model, body.provider, body.tokens or body.input_tokens or 0, body.output_tokens or 0
    )


def _usd(value: Decimal | None) -> float | None:
    return None if value is None else float(value)


__all__ = ["Deducted", "either", "router", "tokens_of"]
