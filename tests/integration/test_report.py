"""`faregate report`: what became of everybody's welcome credits."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from tests.helpers.forking import faregate
from tests.helpers.kafka import Raw
from tests.helpers.ledger import Ledger
from tests.helpers.world import World, registered, until

from faregate.ledger.core import Rules, Welcome
from faregate.ledger.store import Store, open_store
from faregate.runtime import report
from faregate.testing.clocks import Clock

pytestmark = pytest.mark.stack

ARMS = {"less": 2, "more": 8}
SETTINGS: dict[str, Any] = {
    "provisioning": "auto",
    "welcome_arms": ARMS,
    "welcome_by_referral": {"spring": 5},
    "referral_bonus_credits": 1,
    "welcome_milestones": {"email_verified": 1},
}


async def _run(here: World, *arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *faregate(), "report", *arguments,
        env=here.environment(), stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await process.communicate()
    assert process.returncode == 0
    return out.decode()


async def _read(here: World, *groups: str) -> None:
    async def done() -> bool:
        return not any([await here.lag(group) for group in groups])

    await until(done, what=f"{groups} to read all")


async def test_users_grants_and_failures_are_counted(here: World) -> None:
    await here.ledger.set_balance("user:vip", 100)
    async with here.running("provisioning", "entitlements", "deduction", **SETTINGS):
        await here.send(registered("u0"), registered("eve", referral="spring"))
        await _read(here, "provisioning")
        await here.send(
            registered("cat", referral="user:u0", email_verified=True),
            registered("vip"),
            here.request(user="u1", items=2),
            here.usage("u2", units=3),
            Raw("users.registered", b"no event", b"k"),
        )
        await _read(here, "provisioning", "entitlements", "deduction")
    value = json.loads(await _run(here, "--json"))
    assert value["users"] == {
        "seen": 6, "provisioned": 5, "pending": 0, "without": 1, "success": 0.8333
    }  # fmt: skip
    layers = {row.pop("layer"): row for row in value["layers"]}
    assert {name: row["grants"] for name, row in layers.items()} == {
        "eager": 3, "lazy": 1, "last_resort": 1
    }  # fmt: skip
    # `u2` had an arm's 1 of 2 credits at once, and used 3: nothing is left, and a debt.
    assert layers["last_resort"]["used_up"] == 1
    assert layers["eager"]["unused"] == 3
    arms = {row["arm"]: row for row in value["arms"]}
    assert sum(row["grants"] for row in arms.values()) == 4, "eve came by a campaign"
    assert arms["less"]["credits"] == arms["less"]["grants"] * (ARMS["less"] - 1)
    assert arms["more"]["credits"] == arms["more"]["grants"] * (ARMS["more"] - 1)
    sources = {row["source"]: (row["grants"], row["credits"]) for row in value["sources"]}
    assert sources["referral:spring"] == (1, 4)
    assert sources["referral_bonus"] == (1, 1)
    assert sources["milestone:email_verified"] == (1, 1)
    assert sources["welcome"][0] == 3
    assert sources["referral:user"][0] == 1
    assert value["failures"] == {"dead_letters": 1, "unread": 0}
    text = await _run(here)
    assert "6 users seen: 5 provisioned (83.3%), 0 waiting for a verified e-mail" in text
    assert "faregate dlq list users.registered" in text


async def test_what_became_of_each_grant(clocked: tuple[Store, Clock]) -> None:
    pool, clock = clocked[0].pool, clocked[1]
    rules = Rules(provisioning="auto", welcome=Welcome(days=7))
    ledger = Ledger(await open_store(pool, rules))
    for user, units in (("unused", 0), ("part", 2), ("all", 5), ("over", 9)):
        await ledger.request(user=user, pipeline="nlp")
        if units:
            await ledger.usage(user=user, units=units)
    states = ("unused", "in_use", "used_up", "expired")
    lazy = (await report.provisioning(pool))["layers"][1]
    assert [lazy[name] for name in states] == [1, 1, 2, 0]
    assert (lazy["credits"], lazy["left"]) == (20, 8)
    await clock.advance(days=8, settle=False)
    due = (await report.provisioning(pool))["layers"][1]
    assert [due[name] for name in states] == [0, 0, 2, 2], "whether or not it was swept"
    await ledger.request(user="unused", pipeline="nlp")
    await ledger.request(user="part", pipeline="nlp")
    swept = (await report.provisioning(pool))["layers"][1]
    assert [swept[name] for name in states] == [0, 0, 2, 2]
    assert swept["left"] == 0


async def test_who_waits_for_a_verified_address_is_counted(here: World) -> None:
    rules = Rules(provisioning="auto", welcome=Welcome(verified_only=True))
    ledger = Ledger(await open_store(here.pool, rules))
    await ledger.request(user="ada", items=2)
    users = (await report.provisioning(here.pool))["users"]
    assert (users["seen"], users["provisioned"], users["pending"]) == (1, 0, 1)


async def test_without_users_and_without_kafka(here: World) -> None:
    nowhere = {"FAREGATE_KAFKA": "127.0.0.1:1"}
    process = await asyncio.create_subprocess_exec(
        *faregate(), "report", "--json",
        env=here.environment() | nowhere, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await process.communicate()
    value = json.loads(out)
    assert (process.returncode, value["users"]["success"]) == (0, None)
    assert value["failures"] == {"dead_letters": None, "unread": None}
    assert [row["grants"] for row in value["layers"]] == [0, 0, 0]
