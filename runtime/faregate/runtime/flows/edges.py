"""Where credits end: too little, too often, nobody's, all at once, and with the database away."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

from faregate.runtime.flows.asking import CHECK, DEDUCT, Asking
from faregate.runtime.flows.client import CONNECTIONS, Aborted, NotHere, Person, Reply, said
from faregate.runtime.flows.flow import step

TRIAL_CALLS = 700
_ONLY_OWN = (
    "the database can be stopped only where the report has started it: run this without --url"
)
_BACK_S = 30.0
_POLL_S = 0.1
_OK = 200


class Edges(Asking):
    """Each step has people and organizations of its own."""

    name, title = "edges", "Where credits end"
    independent = True

    async def _org(self, credits_: float) -> tuple[Person, str]:
        boss = await self.world.person("boss")
        made = self.answered(await boss.post("/api/v1/org", {"name": "Edge"}), 201)
        org_id = str(made["org_id"])
        target = {"subject_type": "org", "subject_id": org_id, "balance": credits_}
        self.answered(await self.world.admin.post("/v1/admin/credits/set", target))
        await self.watch_org("the organization", boss, org_id)
        return boss, org_id

    async def _member(self, boss: Person, org_id: str, allocated: float = 0) -> Person:
        member = await self.world.person("bob")
        invite = f"/api/v1/org/{org_id}/invite"
        self.answered(await boss.post(invite, {"email": member.email}), 201)
        if allocated:
            body = {"user_id": member.user_id, "credits": allocated}
            place = f"/api/v1/credits/organization/{org_id}/allocate"
            self.answered(await boss.post(place, body))
        return member

    @step("An organization of 100 does not pay 150, and nothing is deducted")
    async def _too_dear(self) -> None:
        boss, org_id = await self._org(100)
        bob = await self._member(boss, org_id, 200)
        await self.watch_allocation("bob's allocation", bob, org_id)
        refused = await bob.post(DEDUCT, {"credits": 150})
        self.refused(refused, 402, "insufficient_credits")
        amounts = (refused["required_credits"], refused["available_credits"])
        self.same("required, and available", amounts, (150, 100), refused)
        found = self.answered(await boss.get(f"/api/v1/credits/organization/{org_id}"))
        left = (found["total_credits"], found["held"])
        self.same("the organization's balance, and what is held", left, (100, 0), found)
        mine = await bob.get(f"/api/v1/credits/organization/{org_id}/my-allocation")
        self.same("of bob's allocation is used", mine["used"], 0, mine)

    @step("A trial has 700 calls; the 701st is refused")
    async def _trial(self) -> None:
        ada = await self.world.person("ada")
        usage = await self.counted(ada)
        if usage["api_calls_limit"] != TRIAL_CALLS:
            tier = {"subject_type": "user", "subject_id": ada.user_id, "tier": "trial"}
            self.answered(await self.world.admin.post("/v1/admin/tiers", tier))
            usage = await self.counted(ada)
        if usage["api_calls_limit"] != TRIAL_CALLS:
            self.note(f"a trial has {usage['api_calls_limit']} calls here")
            return
        grant = {"userId": ada.user_id, "credits": 100}
        self.answered(await self.world.admin.post("/api/credits/allocate", grant), 201)
        await self.watch_user(ada)
        made = await _together(TRIAL_CALLS + 1, lambda: self.deduct(ada, 1))
        statuses = Counter(reply.status for reply in made)
        self.same("of 701 calls at once", dict(statuses), {200: TRIAL_CALLS, 429: 1}, made[-1])
        refused = await self.deduct(ada, 1)
        self.refused(refused, 429, "quota_exceeded")
        usage = await self.counted(ada)
        calls = f"{usage['api_calls_used']}/{usage['api_calls_limit']}"
        self.same("calls", calls, f"{TRIAL_CALLS}/{TRIAL_CALLS}", usage)
        plain = await ada.post(DEDUCT, {"credits": 1})
        self.same("a deduction that is no call is let in", plain.status, _OK, plain)
        if (books := self.world.books) is not None:
            found = await books.calls(ada.subject)
            self.same("calls counted in the ledger", found, TRIAL_CALLS, where="ledger")

    @step("Who has no organization pays with their own credits")
    async def _alone(self) -> None:
        ada = await self.rich("ada", 100)
        done = self.answered(await ada.post(DEDUCT, {"credits": 40}))
        self.same("the payer", done["payer"], ada.subject, done)
        self.same("what is left", done["balance"], 60, done)

    @step("A member without an allocation is refused with 403, which says so")
    async def _no_allocation(self) -> None:
        boss, org_id = await self._org(100)
        bob = await self._member(boss, org_id)
        await self.watch_user(bob)
        refused = await bob.post(DEDUCT, {"credits": 1})
        self.refused(refused, 403, "no_allocation")
        helps = str(refused.json.get("help", ""))
        self.holds("it says to ask for an allocation", helps, refused, ok="allocation" in helps)

    @step("Ten times 100 at once on 1,000 credits leave exactly 0")
    async def _at_once(self) -> None:
        ada = await self.rich("ada", 1_000)
        made = await _together(10, lambda: ada.post(DEDUCT, {"credits": 100}))
        refused = [said(reply) for reply in made if reply.status != _OK]
        self.same("refused of the ten", refused, [])
        left = sorted(reply["balance"] for reply in made if reply.status == _OK)
        self.same("each saw another balance", left, list(range(0, 1_000, 100)))
        found = self.answered(await ada.get("/api/v1/credits/balance"))
        self.same("the balance", found["credits_remaining"], 0, found)
        more = await _together(5, lambda: ada.post(DEDUCT, {"credits": 100}))
        for reply in more:
            self.refused(reply, 402, "insufficient_credits")
        if (books := self.world.books) is not None:
            taken = [entry["amount"] for entry in await books.usage(ada.subject)]
            self.same("the ledger's charges", taken, [-100] * 10, where="ledger")

    @step("With the database down nothing is allowed: 503")
    async def _database_down(self) -> None:
        if self.world.own is None:
            raise NotHere(_ONLY_OWN)
        ada = await self.rich("ada", 100)
        known = self.answered(await ada.post(CHECK, {"credits": 1}))
        self.same("before: 1 credit is there", known["sufficient"], expected=True, reply=known)
        await asyncio.to_thread(self.world.own.stop_database)
        try:
            await self._nothing_is_allowed(ada)
        finally:
            await asyncio.to_thread(self.world.own.start_database)
            if self.world.books is not None:
                await self.world.books.reconnect()
        self.same("after: 1 credit is there", await self._is_back(ada), expected=True)
        found = self.answered(await ada.get("/api/v1/credits/balance"))
        left = (found["credits_remaining"], found["held"])
        self.same("the balance, and what is held", left, (100, 0), found)

    async def _nothing_is_allowed(self, ada: Person) -> None:
        checked = await ada.post(CHECK, {"credits": 1})
        self.refused(checked, 503, "check_unavailable")
        answer = checked.json.get("sufficient") if isinstance(checked.json, dict) else None
        self.same("the check says that it is enough", answer, None, checked)
        self.refused(await ada.post(DEDUCT, {"credits": 1}), 503, "check_unavailable")
        self.refused(await ada.post("/api/v1/holds", {"credits": 1}), 503, "check_unavailable")
        self.refused(await self.chat(ada), 503, "check_unavailable")

    async def _is_back(self, ada: Person) -> bool:
        until = asyncio.get_running_loop().time() + _BACK_S
        while True:
            reply = await ada.post(CHECK, {"credits": 1})
            if reply.status == _OK:
                return bool(reply["sufficient"])
            if asyncio.get_running_loop().time() > until:
                what = f"the gateway works again within {_BACK_S:.0f} s"
                raise Aborted(what, _OK, said(reply), reply.call)
            await asyncio.sleep(_POLL_S)


async def _together(number: int, make: Callable[[], Awaitable[Reply]]) -> list[Reply]:
    """Make calls at once, as many as there are connections."""
    slots = asyncio.Semaphore(CONNECTIONS)

    async def one() -> Reply:
        async with slots:
            return await make()

    return list(await asyncio.gather(*(one() for _ in range(number))))
