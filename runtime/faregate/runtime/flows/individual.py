"""Somebody alone: credits, calls that are charged and counted, the quota."""

from __future__ import annotations

from datetime import datetime

from faregate.runtime.flows import timings
from faregate.runtime.flows.asking import MODEL, TOKENS, Asking
from faregate.runtime.flows.client import Person, Reply
from faregate.runtime.flows.flow import step

CREDITS, CALLS = 10_000, 10_000
_PERIOD_S = 30 * 86_400


class Individual(Asking):
    """10,000 credits and 10,000 calls."""

    name, title = "individual", "Somebody alone"
    ada: Person
    limit: int

    @step("10,000 credits and 10,000 calls are there", needed=True)
    async def _account(self) -> None:
        admin, self.ada = self.world.admin, await self.world.person("ada")
        tier = {"subject_type": "user", "subject_id": self.ada.user_id, "tier": "platform"}
        self.answered(await admin.post("/v1/admin/tiers", tier))
        target = {"subject_type": "user", "subject_id": self.ada.user_id, "balance": CREDITS}
        await self.watch_user(self.ada)
        self.answered(await admin.post("/v1/admin/credits/set", target))
        found = self.answered(await self.ada.get("/api/v1/credits/balance"))
        self.same("the balance", found["credits_remaining"], CREDITS, found)
        self.same("the tier", found["tier"], "platform", found)
        usage = await self.counted(self.ada)
        self.same("calls made", usage["api_calls_used"], 0, usage)
        self.limit = usage["api_calls_limit"]
        if self.limit != CALLS:
            self.note(f"the tier platform has {self.limit} calls here, not {CALLS:,}")
        await self.default_prices(self.ada)

    @step("One call of gpt-3.5-turbo is charged by its tokens, and counted")
    async def _call(self) -> None:
        spent = await self.spend(self.ada)
        balance = self.answered(await self.ada.get("/api/v1/credits/balance"))
        left = CREDITS - spent.credits
        self.same("the balance after it", balance["credits_remaining"], left, balance)
        self.same("nothing is held any more", balance["held"], 0, balance)
        if spent.remaining is not None:
            self.same("X-Credits-Remaining", spent.remaining, left, spent.reply)
            self._rate_headers(spent.reply)
        await self._is_counted(1)
        listed = self.answered(await self.ada.get("/api/v1/credits/transactions?limit=10"))
        (entry,) = [t for t in listed["transactions"] if t["transaction_type"] == "usage"]
        self.same("the newest usage entry takes", entry["amount"], -spent.credits, listed)
        self.same("the entry's model", entry["model"], MODEL, listed)
        if (books := self.world.books) is not None:
            (found,) = (await books.usage(self.ada.subject))[:1]
            if spent.tokens is not None:
                tokens = (found.get("input_tokens"), found.get("output_tokens"))
                what = "the ledger's tokens are the reported ones"
                self.same(what, tokens, spent.tokens, where="ledger")
            self.same("the ledger's charge", found["amount"], -spent.credits, where="ledger")
            calls = await books.calls(self.ada.subject)
            self.same("calls counted in the ledger", calls, 1, where="ledger")

    def _rate_headers(self, reply: Reply) -> None:
        self.same("X-RateLimit-Limit", reply.number("x-ratelimit-limit"), float(self.limit), reply)
        remaining = reply.number("x-ratelimit-remaining")
        self.same("X-RateLimit-Remaining", remaining, float(self.limit - 1), reply)

    async def _is_counted(self, calls: int) -> None:
        usage = await self.counted(self.ada)
        said = f"{usage['api_calls_used']:,}/{usage['api_calls_limit']:,}"
        self.same("calls", said, f"{calls:,}/{self.limit:,}", usage)

    @step("A deduction of 100 tokens takes its price, and is counted")
    async def _deduction(self) -> None:
        before = await self.counted(self.ada)
        price = await self.price(self.ada, TOKENS, 0)
        held = self.answered(await self.ada.get("/api/v1/credits/balance"))
        done = self.answered(await self.deduct(self.ada))
        self.same("it takes", done["credits"], price, done)
        left = held["credits_remaining"] - price
        self.same("it leaves", done["balance"], left, done)
        await self._is_counted(before["api_calls_used"] + 1)
        history = self.answered(await self.ada.get("/api/v1/usage/history"))
        periods = [period["api_calls_used"] for period in history["periods"]]
        self.same("calls by period", periods, [before["api_calls_used"] + 1], history)
        listed = self.answered(await self.ada.get("/api/v1/credits/transactions?limit=1"))
        newest = [(t["id"], t["reference"], t["balance_after"]) for t in listed["transactions"]]
        expected = [(done["entry_id"], f"report {self.name}", left)]
        self.same("the newest transaction: id, reference, balance", newest, expected, listed)
        if (books := self.world.books) is not None:
            (found,) = (await books.usage(self.ada.subject))[:1]
            self.same("the ledger's entry", found["id"], done["entry_id"], where="ledger")
            self.same("it takes", found["amount"], -price, where="ledger")

    @step("Twenty deductions, one after the other; each is counted at once")
    async def _pace(self) -> None:
        used = (await self.counted(self.ada))["api_calls_used"]
        for number in range(1, timings.SAMPLES + 1):
            self.answered(await self.deduct(self.ada, 10, timed=timings.DEDUCT))
            usage = await self.ada.get("/api/v1/usage/current", timed=timings.TRACKING)
            self.same("calls made", usage["api_calls_used"], used + number, usage)

    @step("Twenty people register and sign in")
    async def _sign_ins(self) -> None:
        for number in range(timings.SAMPLES):
            person = await self.world.person(f"guest{number}", timed=timings.REGISTRATION)
            body = {"username": person.email, "password": self.world.password}
            call = self.world.client.call
            token = self.answered(
                await call("POST", "/api/auth/login", body, timed=timings.SIGN_IN)
            )
            self.same("the kind of token", token["token_type"], "bearer", token)
        wrong = {"username": person.email, "password": f"not {self.world.password}"}
        refused = await self.world.client.call("POST", "/api/auth/login", wrong)
        self.refused(refused, 401, "sign_in_failed")

    @step("Past the quota a call is refused with 429, and told when to come again")
    async def _quota(self) -> None:
        books = self.books()
        usage = await self.counted(self.ada)
        used = usage["api_calls_used"]
        await books.set_quota(self.ada.subject, used + 1)
        try:
            self.answered(await self.deduct(self.ada))
            before = self.answered(await self.ada.get("/api/v1/credits/balance"))
            self._past_the_quota(await self.ask(self.ada), usage["period_end"])
            after = self.answered(await self.ada.get("/api/v1/credits/balance"))
            what, left = "the refused call takes nothing", before["credits_remaining"]
            self.same(what, after["credits_remaining"], left, after)
            now = await self.counted(self.ada)
            self.same("calls that remain", now["remaining"], 0, now)
            calls = await books.calls(self.ada.subject)
            self.same("calls counted in the ledger", calls, used + 1, where="ledger")
        finally:
            await books.set_quota(self.ada.subject, None)
        self.answered(await self.deduct(self.ada))

    def _past_the_quota(self, refused: Reply, period_end: str) -> None:
        self.refused(refused, 429, "quota_exceeded")
        wait = refused.number("retry-after") or 0
        self.holds("Retry-After is in the running period", wait, refused, ok=0 < wait <= _PERIOD_S)
        if self.world.has_upstream:
            ends = datetime.fromisoformat(period_end).timestamp()
            reset = refused.number("x-ratelimit-reset") or 0
            what = f"X-RateLimit-Reset is the period's end, {period_end}"
            self.holds(what, reset, refused, ok=0 <= reset - ends <= 1)
