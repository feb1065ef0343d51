"""An organization: bought credits, allocations, whose usage it was, and where it ends."""

from __future__ import annotations

from typing import Any

from faregate.runtime.flows import timings
from faregate.runtime.flows.asking import CHECK, DEDUCT, Asking
from faregate.runtime.flows.client import Person
from faregate.runtime.flows.flow import step

BOUGHT, ALLOCATED, OTHERS = 10_000, 2_500, 100
_FORBIDDEN = 403


class Organization(Asking):
    """10,000 credits, of which a member may spend 2,500."""

    name, title = "organization", "An organization and its members"
    boss: Person
    bob: Person
    cleo: Person
    org_id: str

    @property
    def place(self) -> str:
        """The organization's credits."""
        return f"/api/v1/credits/organization/{self.org_id}"

    async def _credits(self) -> Any:
        return self.answered(await self.boss.get(self.place))

    @step("It is made, and buys 10,000 credits", needed=True)
    async def _made(self) -> None:
        self.boss = await self.world.person("boss")
        made = self.answered(await self.boss.post("/api/v1/org", {"name": "Acme"}), 201)
        self.org_id = made["org_id"]
        self.same("who made it is its admin", made["role"], "admin", made)
        await self.watch_org("the organization", self.boss, self.org_id)
        body = {"credits": BOUGHT, "reference": "faregate report"}
        bought = await self.boss.post(f"{self.place}/purchase", body)
        if bought.status == _FORBIDDEN:
            bought = await self.world.admin.post(f"{self.place}/purchase", body)
        self.answered(bought)
        self.same("it has", bought["total_credits"], BOUGHT, bought)

    @step(
        "A known address is a member at once, an unknown one with their registration", needed=True
    )
    async def _invited(self) -> None:
        self.bob = await self.world.person("bob")
        invite = f"/api/v1/org/{self.org_id}/invite"
        done = self.answered(await self.boss.post(invite, {"email": self.bob.email}), 201)
        self.same("bob", done["status"], "member", done)
        email = self.world.make_email("cleo")
        done = self.answered(await self.boss.post(invite, {"email": email}), 201)
        self.same("cleo, who is not known yet", done["status"], "invited", done)
        self.cleo = await self.world.person("cleo", email=email)
        org = self.answered(await self.boss.get(f"/api/v1/org/{self.org_id}"))
        roles = ((self.boss, "admin"), (self.bob, "member"), (self.cleo, "member"))
        members = {one["user_id"]: one["role"] for one in org["members"]}
        self.same("its members", members, {p.user_id: role for p, role in roles}, org)

    @step("2,500 credits are allocated to a member", needed=True)
    async def _allocated(self) -> None:
        await self.watch_allocation("bob's allocation", self.bob, self.org_id)
        await self.watch_user(self.bob)
        body = {"user_id": self.bob.user_id, "credits": ALLOCATED}
        done = self.answered(await self.boss.post(f"{self.place}/allocate", body))
        self.same("bob may spend", done["remaining"], ALLOCATED, done)
        account = await self._credits()
        self.same("the organization has", account["total_credits"], BOUGHT, account)
        self.same("of it allocated", account["allocated_credits"], ALLOCATED, account)

    @step("One call of the member takes from both, and is attributed to them")
    async def _call(self) -> None:
        own = self.answered(await self.bob.get("/api/v1/credits/balance"))
        spent = await self.spend(self.bob)
        account = await self._credits()
        left = BOUGHT - spent.credits
        self.same("the organization has left", account["total_credits"], left, account)
        mine = self.answered(await self.bob.get(f"{self.place}/my-allocation"))
        self.same("bob may still spend", mine["remaining"], ALLOCATED - spent.credits, mine)
        if spent.remaining is not None:
            what = "X-Credits-Remaining is the smaller of the two"
            self.same(what, spent.remaining, ALLOCATED - spent.credits, spent.reply)
        after = self.answered(await self.bob.get("/api/v1/credits/balance"))
        what = "bob's own credits are untouched"
        self.same(what, after["credits_remaining"], own["credits_remaining"], after)
        said = self.answered(await self.boss.get(f"{self.place}/usage-attribution"))
        rows = {row["user_id"]: row["credits"] for row in said["rows"]}
        self.same("the usage is bob's", rows, {self.bob.user_id: spent.credits}, said)
        usage = await self.counted(self.bob)
        self.same("it is one of bob's calls", usage["api_calls_used"], 1, usage)
        if (books := self.world.books) is not None:
            (entry,) = await books.usage(f"org:{self.org_id}")
            self.same("whose entry it is", entry["user_id"], self.bob.user_id, where="ledger")
            self.same("the ledger's charge", entry["amount"], -spent.credits, where="ledger")

    @step("A check sees what the member may spend, not what the organization has")
    async def _checks(self) -> None:
        left = self.answered(await self.bob.get(f"{self.place}/my-allocation"))["remaining"]
        for number in range(timings.SAMPLES):
            more = number % 2
            body = {"credits": round(left + more, 6)}
            found = self.answered(await self.bob.post(CHECK, body, timed=timings.ORG_CHECK))
            self.same(f"{body['credits']:,} are there", found["sufficient"], not more, found)

    @step("The allocation ends before the organization does")
    async def _blocked(self) -> None:
        left = self.answered(await self.bob.get(f"{self.place}/my-allocation"))["remaining"]
        before = (await self._credits())["total_credits"]
        refused = await self._take(self.bob, round(left + 1, 6))
        self.refused(refused, 402, "allocation_exhausted")
        self.same("it says what there is", refused["available_credits"], left, refused)
        account = await self._credits()
        self.same("nothing was taken", account["total_credits"], before, account)
        done = self.answered(await self._take(self.bob, left))
        self.same("the last of it is paid by", done["payer"], f"org:{self.org_id}", done)
        self.refused(await self._take(self.bob, 1), 402, "allocation_exhausted")
        account = await self._credits()
        self.same(
            "the organization has left", account["total_credits"], BOUGHT - ALLOCATED, account
        )

    async def _take(self, person: Person, credits_: float) -> Any:
        return await person.post(DEDUCT, {"credits": credits_, "reference": "report organization"})

    @step("The admins' breakdown sums up to the ledger")
    async def _breakdown(self) -> None:
        body = {"email": self.cleo.email, "credits": OTHERS}
        self.answered(await self.boss.post(f"{self.place}/allocate", body))
        self.answered(await self._take(self.cleo, 12.5))
        self.answered(await self.deduct(self.cleo))
        account = await self._credits()
        used = round(BOUGHT - account["total_credits"], 6)
        for group in ("member", "model", "phase", "day", "member,model,day"):
            said = await self.boss.get(f"{self.place}/usage-attribution?group_by={group}")
            self.answered(said)
            self.same(f"the total by {group}", said["total"], used, said)
            rows = round(sum(row["credits"] for row in said["rows"]), 6)
            self.same(f"the sum of the rows by {group}", rows, used, said)
        refused = await self.bob.get(f"{self.place}/usage-attribution")
        self.refused(refused, 403, "forbidden")
        if (books := self.world.books) is not None:
            sums = await books.sums(f"org:{self.org_id}")
            self.same("what the ledger's entries charged", sums.used, used, where="ledger")
