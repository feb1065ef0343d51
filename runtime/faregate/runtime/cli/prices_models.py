"""Models and tiers of the price book for people: what a call costs, step by step."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_CEILING, Decimal, localcontext
from typing import Any

from faregate.events.amounts import MICRO, format_credits, to_credits
from faregate.ledger.core import Book
from faregate.ledger.core.prices import ModelPrice
from faregate.runtime.cli.base import Refused, out, table
from faregate.runtime.wording import in_credits, meant, plain

_APPLY = "add the price: faregate prices apply FILE"
_FREE = "free"


def explain_model(
    book: Book, name: str, tokens: tuple[int, int], tier: str | None
) -> dict[str, Any]:
    """Say what a call of a model costs and how that is computed. Raises Refused."""
    price = book.model(None, name)
    if price is None:
        same = [m.name for m in book.models.values() if m.bare_name == name]
        hint = f"; several providers have one: {', '.join(sorted(same))}" if same else ""
        near = hint or meant(name, book.models)
        message = f"price version {book.version} has no model {name!r}{near}"
        raise Refused("unknown_price", message, _APPLY)
    used = tier or _FREE
    cost = book.tokens_cost(None, name, *tokens, used)
    if cost is None:
        known = ", ".join(n for n, t in book.tiers.items() if t.rate is not None)
        message = f"{price.name} is priced by the user's tier; say --tier, one of: {known}"
        raise Refused("unknown_price", message, "say --tier TIER")
    usd = price.vendor_cost_usd(*tokens)
    return {
        "name": price.name,
        "kind": "model",
        "price": price.kind,
        "active": book.is_active(None, name),
        "price_version": book.version,
        "input_tokens": tokens[0],
        "output_tokens": tokens[1],
        "tier": used if price.kind == "tier_rate" else None,
        "vendor_cost_usd": None if usd is None else float(usd),
        "increment": book.increment / MICRO if price.kind == "vendor" else None,
        "required_credits": to_credits(cost),
        "how": _how(book, price, tokens, used, cost, usd),
    }


def _how(
    book: Book,
    price: ModelPrice,
    tokens: tuple[int, int],
    tier: str,
    cost: int,
    usd: Decimal | None,
) -> str:
    start = f"{price.name}: {tokens[0]:,} input + {tokens[1]:,} output tokens"
    total = in_credits(cost)
    if price.kind == "vendor" and usd is not None:
        return f"{start} {_vendor_steps(book, price, usd)} = {total}"
    if price.kind == "tier_rate":
        rate = book.tiers[tier].rate or 0
        per = format(Decimal(rate.numerator) / rate.denominator / MICRO, "f")
        how = f"{sum(tokens):,} x {per} / 1,000 (tier {tier})"
    else:
        how = f"{sum(tokens):,} x {format_credits(price.micro_per_1k or 0)} / 1,000"
    aside = f"; they cost the provider ${_plain(usd)}" if usd is not None else ""
    return f"{start}: {how} = {total}{aside}"


def _vendor_steps(book: Book, price: ModelPrice, usd: Decimal) -> str:
    margin = price.margin or book.margin
    with localcontext() as context:
        context.prec = 60
        dear = usd * margin
        exact = (dear / book.usd_per_credit).quantize(Decimal(10) ** -9, ROUND_CEILING)
    return (
        f"cost the provider ${_plain(usd)}; x margin {_plain(margin)} = ${_plain(dear)}; "
        f"/ ${_plain(book.usd_per_credit)} a credit = {_plain(exact)}; up to the next "
        f"{format_credits(book.increment)}"
    )


def _plain(number: Decimal) -> str:
    return format(number.normalize(), "f")


def render_models(found: Mapping[str, Any]) -> None:
    """Print models, tiers and what vendor prices rest on."""
    vendor = found["vendor"]
    if found["models"]:
        models = table(("model", "price", "of", "active"), folds="price")
        for name, m in sorted(found["models"].items()):
            active = m.get("active", True) and _is_active(found, name)
            models.add_row(name, _priced(m), m["kind"], "yes" if active else "no")
        out.print()
        out.print(models)
        out.print(
            f"vendor: USD x margin {vendor['margin']} / {vendor['usd_per_credit']} USD a credit, "
            f"up to the next {found['increment']:g}"
        )
    tiers = table(("tier", "credits", "calls", "per 1K tokens"), right=("credits", "calls"))
    for name, t in found["tiers"].items():
        calls, rate = t.get("calls"), t.get("rate")
        renews = "" if t.get("renews", t["credits"] > 0) or not t["credits"] else " once"
        tiers.add_row(
            name,
            f"{plain(t['credits'])}{renews}",
            "" if calls is None else f"{calls:,}",
            "" if rate is None else f"{rate:g}",
        )
    out.print()
    out.print(tiers)


def _is_active(found: Mapping[str, Any], name: str) -> bool:
    provider, slash, _ = name.partition("/")
    return not slash or bool(found["providers"].get(provider, {}).get("active", True))


def _priced(model: Mapping[str, Any]) -> str:
    usd = ""
    if "input_usd_per_1k" in model:
        usd = f"${_short(model['input_usd_per_1k'])} in, ${_short(model['output_usd_per_1k'])} out"
    if model["kind"] == "credits_per_1k":
        return f"{plain(model['credits'])} credits per 1K tokens"
    if model["kind"] == "tier_rate":
        return "the tier's rate"
    margin = f", margin {model['margin']}" if "margin" in model else ""
    return f"{usd} per 1K tokens{margin}"


def _short(usd: float) -> str:
    return _plain(Decimal(str(usd)))
