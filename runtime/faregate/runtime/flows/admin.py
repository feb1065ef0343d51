"""What a platform admin does: allocate; and what a check says by both of its names."""

from __future__ import annotations

from typing import Any

from faregate.runtime.flows.asking import CHECK, Asking
from faregate.runtime.flows.client import Person
from faregate.runtime.flows.flow import step

REQUIRED = "Valid credits amount required"
ALLOCATE = "/api/credits/allocate"
_BAD: tuple[tuple[str, Any], ...] = (
    ("no amount", None),
    ("zero", 0),
    ("a negative amount", -5),
    ("a string", "10"),
)


class Admin(Asking):
    """100 credits, allocated."""

    name, title = "admin", "An admin allocates, a check answers"
    eve: Person

    @step("An admin allocates 100 credits", needed=True)
    async def _allocated(self) -> None:
        self.eve = await self.rich("eve", 0)
        body = {"userId": self.eve.user_id, "credits": 100, "expiryDays": 30, "notes": "report"}
        made = self.answered(await self.world.admin.post(ALLOCATE, body), 201)
        self.same("of whom", made["userId"], self.eve.user_id, made)
        amounts = (made["totalCredits"], made["remainingCredits"])
        self.same("allocated, and left of it", amounts, (100, 100), made)
        self.holds("its id is an integer", made["id"], made, ok=isinstance(made["id"], int))
        shown = self.answered(await self.eve.get("/api/credits/balance"))
        self.same("their balance", shown["totalCredits"], 100, shown)
        live = [one["id"] for one in shown["activeAllocations"]]
        self.same("their allocations", live, [made["id"]], shown)

    @step("A check by either name says whether it is enough")
    async def _checked(self) -> None:
        for name in ("credits", "requiredCredits"):
            for amount, enough in ((100, True), (0.000001, True), (100.000001, False)):
                said = self.answered(await self.eve.post(CHECK, {name: amount}))
                word = "Sufficient" if enough else "Insufficient"
                expected = {"sufficient": enough, "message": f"{word} credits"}
                self.same(f"{name}: {amount:f}", said.json, expected, said)
        both = await self.eve.post(CHECK, {"credits": 100, "requiredCredits": 101})
        self.same(
            "`credits` wins over `requiredCredits`", both["sufficient"], expected=True, reply=both
        )

    @step("What is no amount is a 400, for a check and for an allocation")
    async def _no_amounts(self) -> None:
        for what, amount in _BAD:
            for name in ("credits", "requiredCredits"):
                body = {} if amount is None else {name: amount}
                refused = await self.eve.post(CHECK, body)
                self.refused(refused, 400, "validation_failed")
                self.same(f"{name}: {what}", refused["detail"], REQUIRED, refused)
            body = {"userId": self.eve.user_id}
            body |= {} if amount is None else {"credits": amount}
            self.refused(await self.world.admin.post(ALLOCATE, body), 400, "validation_failed")

    @step("Nobody else may allocate")
    async def _forbidden(self) -> None:
        body = {"userId": self.eve.user_id, "credits": 1}
        self.refused(await self.eve.post(ALLOCATE, body), 403, "forbidden")
        nobody = await self.world.client.call("POST", ALLOCATE, body)
        self.refused(nobody, 401, "unauthenticated")
