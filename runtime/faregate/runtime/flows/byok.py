"""Calls with one's own key: free of credits, counted, sealed, refused where the key is bad."""

from __future__ import annotations

from secrets import token_hex
from typing import Any

from faregate.runtime.flows import timings
from faregate.runtime.flows.asking import Asking
from faregate.runtime.flows.client import NotHere, Person, Reply
from faregate.runtime.flows.flow import step

KEYS = "/api/v1/settings/byok-keys"
CREDITS = 100
_UNAUTHORIZED = 401
_LOCKED = "byok_not_configured"


class Byok(Asking):
    """100 credits, and a key of a provider."""

    name, title = "byok", "Calls with one's own key"
    dora: Person

    def _sends(self, provider: str) -> dict[str, Any]:
        return {"headers": {"X-BYOK-Provider": provider}}

    async def _balance(self) -> Any:
        return self.answered(await self.dora.get("/api/v1/credits/balance"))

    @step("A key is found missing before anything is held", needed=True)
    async def _detection(self) -> None:
        self.dora = await self.rich("dora", CREDITS)
        for _ in range(timings.SAMPLES):
            more = {"timed": timings.BYOK_DETECTION, **self._sends("openai")}
            refused = await self.chat(self.dora, **more)
            if refused.reason == _LOCKED:
                raise NotHere("the gateway has no master key: FAREGATE_MASTER_KEY")
            self.refused(refused, 400, "byok_key_missing")
        found = await self._balance()
        self.same("nothing is held", found["held"], 0, found)

    @step("A key is stored, and never shown again", needed=True)
    async def _stored(self) -> None:
        provider, key = self.own_key()
        self.world.client.secrets.add(key)
        body = {"provider": provider, "api_key": key}
        done = self.answered(await self.dora.post(KEYS, body), 201)
        listed = self.answered(await self.dora.get(KEYS))
        self.same("what is listed", [k["provider"] for k in listed["keys"]], [provider], listed)
        for reply in (done, listed):
            self.holds("the answer has not the key", "", reply, ok=key not in str(reply.json))

    @step("A call with it costs 0 credits, and is counted")
    async def _call(self) -> None:
        provider, _ = self.own_key()
        reply = self.answered(await self.chat(self.dora, **self._sends(provider)))
        self.same("X-Credits-Charged", reply.number("x-credits-charged"), 0.0, reply)
        found = await self._balance()
        self.same("the balance", found["credits_remaining"], CREDITS, found)
        usage = await self.counted(self.dora)
        self.same("calls made", usage["api_calls_used"], 1, usage)
        if (books := self.world.books) is not None:
            (entry,) = await books.usage(self.dora.subject)
            said = (entry["amount"], entry.get("byok"))
            self.same("the ledger's entry: charge, own key", said, (0, True), where="ledger")

    @step("At rest it is sealed")
    async def _sealed(self) -> None:
        books, (_, key) = self.books(), self.own_key()
        rows = await books.stored_keys(self.dora.subject)
        self.same("keys in the database", len(rows), 1, where="ledger")
        forms = {"whole": key, "in hex": key.encode().hex(), "in part": key[8:24]}
        readable = [name for name, form in forms.items() if any(form in row for row in rows)]
        self.same("the key can be read in its row", readable, [], where="ledger")
        if self.world.own is not None:
            self.same("it is in the gateway's log", key in self.world.own.log(), expected=False)

    @step("A key that its provider refuses: 401, and nothing is charged")
    async def _refused_key(self) -> None:
        provider, _ = self.own_key()
        bad = f"sk-refused-{token_hex(16)}"
        self.world.client.secrets.add(bad)
        stored = await self.dora.post(KEYS, {"provider": provider, "api_key": bad})
        if stored.status == _UNAUTHORIZED:  # keys are checked when they are set
            self.refused(stored, 401, "byok_key_invalid")
            return
        self.answered(stored, 201)
        refused = await self.chat(self.dora, **self._sends(provider))
        self.refused(refused, 401, "byok_key_invalid")
        shown = bad in str(refused.json)
        self.same("the refusal shows the key", shown, expected=False, reply=refused)
        found = await self._balance()
        left = (found["credits_remaining"], found["held"])
        self.same("the balance, and what is held", left, (CREDITS, 0), found)
        listed = self.answered(await self.dora.get(KEYS))
        status = [k["status"] for k in listed["keys"]]
        self.same("the key's status", status, ["refused"], listed)

    @step("Without the header platform credits pay; with a good key nothing again")
    async def _switch_back(self) -> None:
        provider, key = self.own_key()
        spent = await self.spend(self.dora)
        found = await self._balance()
        left = CREDITS - spent.credits
        self.same("the balance", found["credits_remaining"], left, found)
        body = {"provider": provider, "api_key": key}
        self.answered(await self.dora.post(KEYS, body), 201)
        again = self.answered(await self.chat(self.dora, **self._sends(provider)))
        self.same("X-Credits-Charged", again.number("x-credits-charged"), 0.0, again)
        gone = await self.dora.delete(f"{KEYS}/{provider}")
        self.answered(gone, 204)
        self._missing(await self.chat(self.dora, **self._sends(provider)))
        found = await self._balance()
        self.same("the balance", found["credits_remaining"], left, found)

    def _missing(self, reply: Reply) -> None:
        self.refused(reply, 400, "byok_key_missing")
