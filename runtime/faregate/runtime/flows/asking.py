"""What several flows do: give credits, make a call of a model, read what was counted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from faregate.runtime.flows.client import NotHere, Person, Reply
from faregate.runtime.flows.flow import Flow

MODEL, TOKENS, PRICE = "gpt-3.5-turbo", 100, 9
"""The call that the flows are told with, and what it costs by the default prices."""

CHAT = "/v1/chat/completions"
DEDUCT = "/api/v1/credits/deduct"
CHECK = "/api/credits/check"
HELLO = [{"role": "user", "content": "Say hello."}]
_AWAY = frozenset({"llm_not_configured", "upstream_error", "upstream_timeout", "rate_limited"})
NO_UPSTREAM = "the gateway has no upstream that answers: the call was a deduction of its tokens"
NO_USAGE = "the upstream reports no usage: what was charged is not compared with the prices"


@dataclass(frozen=True, slots=True)
class Spent:
    """A call that was made: what it cost by the prices in force, and what the answer said."""

    reply: Reply
    credits: float
    remaining: float | None
    tokens: tuple[int, int] | None
    """Input and output, as reported; None: the upstream reports none."""


class Asking(Flow):
    """A flow with calls of models."""

    async def rich(self, name: str, credits_: float) -> Person:
        """Register somebody who has exactly so many credits, and watch them."""
        admin = self.world.admin
        person = await self.world.person(name)
        target = {"subject_type": "user", "subject_id": person.user_id, "balance": credits_}
        self.answered(await admin.post("/v1/admin/credits/set", target))
        await self.watch_user(person)
        return person

    async def chat(self, person: Person, **more: Any) -> Reply:
        """Ask a model, over the gateway's upstream."""
        body = {"model": MODEL, "messages": HELLO, "max_tokens": TOKENS}
        return await person.post(CHAT, body, **more)

    async def deduct(self, person: Person, tokens: int = TOKENS, **more: Any) -> Reply:
        """Deduct the price of a call that was made elsewhere; it counts as a call."""
        body = {"model": MODEL, "tokens": tokens, "reference": f"report {self.name}"}
        return await person.post(DEDUCT, body, **more)

    async def ask(self, person: Person) -> Reply:
        """Make a call: over the upstream, where there is one that answers."""
        if self.world.has_upstream is not False:
            reply = await self.chat(person)
            if reply.reason not in _AWAY:
                self.world.has_upstream = True
                return reply
            self.world.has_upstream = False
        return await self.deduct(person)

    async def spend(self, person: Person) -> Spent:
        """Make a call that must be let in, and say what it costs by the prices in force."""
        reply = self.answered(await self.ask(person))
        if not self.world.has_upstream:
            self.note(NO_UPSTREAM)
            cost = await self._is_charged(person, reply, reply["credits"], (TOKENS, 0))
            return Spent(reply, cost, None, (TOKENS, 0))
        charged, remaining = (
            reply.number(f"x-credits-{name}") for name in ("charged", "remaining")
        )
        usage = reply.json.get("usage") if isinstance(reply.json, dict) else None
        if not usage:
            self.note(NO_USAGE)
            return Spent(reply, charged or 0, remaining, None)
        tokens = (int(usage["prompt_tokens"]), int(usage["completion_tokens"]))
        cost = await self._is_charged(person, reply, charged, tokens)
        return Spent(reply, cost, remaining, tokens)

    async def _is_charged(
        self, person: Person, reply: Reply, charged: float | None, tokens: tuple[int, int]
    ) -> float:
        cost = await self.price(person, *tokens)
        self.same(f"the call of {sum(tokens)} tokens is charged", charged, cost, reply)
        return cost

    async def price(self, person: Person, input_tokens: int, output_tokens: int) -> float:
        """Give what a call costs by the prices in force."""
        asked = {"model": MODEL, "input_tokens": input_tokens, "output_tokens": output_tokens}
        reply = self.answered(await person.post("/api/v1/credits/calculate", asked))
        return float(reply["credits"])

    async def default_prices(self, person: Person) -> None:
        """Note where the prices of this gateway are other ones than the flows are told with."""
        price = await self.price(person, TOKENS, 0)
        if price != PRICE:
            self.note(f"{TOKENS} tokens of {MODEL} cost {price:g} credits here, not {PRICE}")

    async def counted(self, person: Person) -> Reply:
        """Read the calls of somebody's period."""
        return self.answered(await person.get("/api/v1/usage/current"))

    def own_key(self) -> tuple[str, str]:
        """Give a provider and a key that it takes. Raises NotHere."""
        if self.world.own_key is None:
            raise NotHere("no key of a provider was given: FAREGATE_REPORT_BYOK_KEY")
        return self.world.own_key.provider, self.world.own_key.key
