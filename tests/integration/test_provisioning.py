"""Welcome credits through Kafka: three layers, two consumers of each kind, one grant."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.helpers.kafka import Raw
from tests.helpers.proof import prove
from tests.helpers.servers import Stack
from tests.helpers.world import World, finished, raw, registered, until, world

pytestmark = pytest.mark.stack

GRANTS = """SELECT s.subject, g.kind, g.amount, g.source, g.layer, g.arm, g.expires_at - g.at AS days
    FROM grants g JOIN subjects s USING (account_id) ORDER BY g.id"""
GROUPS = ("provisioning", "entitlements", "deduction", "progress")


@pytest.fixture
async def here(stack: Stack, database_url: str) -> AsyncIterator[World]:
    async with world(stack.kafka, database_url, partitions=4) as made:
        yield made


async def _grants(here: World, user: str) -> list[tuple[str, float, str | None]]:
    """List a user's grants: layer, credits, source."""
    rows = await here.pool.fetch(GRANTS)
    mine = [r for r in rows if r["subject"] == f"user:{user}"]
    return [(r["layer"], r["amount"] / 1_000_000, r["source"]) for r in mine]


def _spread(records: list[Raw]) -> list[Raw]:
    """Give every record a wrong key and another partition, so that each consumer gets some."""
    return [Raw(r.topic, r.value, b"%d" % n, r.headers, n % 4) for n, r in enumerate(records)]


async def _has_read(here: World, *records: Raw, groups: tuple[str, ...] = GROUPS) -> None:
    await here.send(*records)
    await here.settled(*groups)


async def test_a_hundred_first_requests_from_everywhere_give_one_welcome(here: World) -> None:
    asked = [here.request(user="new", items=2) for _ in range(100)]
    used = [here.usage("new") for _ in range(20)]
    signed_up = [registered("new", "same"), registered("new", "same")]
    signed_up += [registered("new") for _ in range(18)]
    await here.send(*_spread([*asked, *used, *signed_up]))
    consumers = [f"{name}{n}" for name in GROUPS[:3] for n in ("", "#2")]
    async with here.running(*consumers, "relay", provisioning="auto"):
        await prove(here, *GROUPS[:3])
    ((_, amount, source),) = await _grants(here, "new")
    assert (amount, source) == (5, "welcome")
    balance = await here.ledger.balance("user:new")
    assert balance.balance + 20 - balance.debt == 5, "20 credits were used, 5 were there"
    assert await here.dead("users.registered") == []


async def test_who_registers_first_is_welcomed_then_and_not_again(here: World) -> None:
    async with here.running(*GROUPS, "relay", provisioning="auto"):
        email = "ada@mail.example"
        await _has_read(here, registered("ada", email=email, org_id="school", email_verified=True))
        await _has_read(here, here.request(user="ada", items=2), here.usage("ada"))
        await _has_read(here, registered("ada", email=email))
        await prove(here, *GROUPS)
    assert await _grants(here, "ada") == [("eager", 5, "welcome")]
    assert (await here.ledger.balance("org:school")).sequence == 0, "nothing is paid to the org"
    tables = ("outcomes", "entries", "grants", "refs", "subjects", "accounts", "outbox")
    for name in tables:
        rows = await here.pool.fetch(f"SELECT t::text AS text FROM {name} AS t")
        assert not [r for r in rows if "@" in r["text"]], f"an e-mail address is in {name}"
    days = [r["days"].days for r in await here.pool.fetch(GRANTS)]
    assert days == [30], "unused welcome credits expire"


async def test_who_asks_or_uses_first_is_welcomed_then_and_not_again(here: World) -> None:
    async with here.running(*GROUPS, "relay", provisioning="auto"):
        await _has_read(here, here.request(user="lazy", items=2), here.usage("last"))
        await _has_read(here, registered("lazy"), registered("last"))
        await prove(here, *GROUPS)
    assert await _grants(here, "lazy") == [("lazy", 5, "welcome")]
    assert await _grants(here, "last") == [("last_resort", 5, "welcome")]
    balance = await here.ledger.balance("user:last")
    assert (balance.balance, balance.debt) == (4, 0), "welcomed before it was charged"


async def test_manual_welcomes_nobody(here: World) -> None:
    async with here.running(*GROUPS, "relay"):
        asked = here.request(user="new", items=2)
        await _has_read(here, registered("new", email_verified=True), asked, here.usage("new"))
        announced = await prove(here, *GROUPS)
    assert await _grants(here, "new") == []
    assert [e.data["reason"] for _, _, e in announced if e.type == "PipelineDeniedV1"]


async def test_an_account_that_finance_made_gets_no_welcome(here: World) -> None:
    await here.ledger.set_balance("user:vip", 0)
    async with here.running(*GROUPS, "relay", provisioning="auto"):
        asked = here.request(user="vip", items=2)
        await _has_read(here, registered("vip", email_verified=True), asked, here.usage("vip"))
        await prove(here, *GROUPS)
    assert [layer for layer, _, _ in await _grants(here, "vip") if layer] == []
    balance = await here.ledger.balance("user:vip")
    assert (balance.balance, balance.debt) == (0, 1)


async def test_only_after_the_address_is_verified(here: World) -> None:
    settings: dict[str, Any] = {"provisioning": "auto", "welcome_verified_only": True}
    async with here.running(*GROUPS, "relay", **settings):
        await _has_read(here, registered("ada", referral="spring"))
        await _has_read(here, here.request("early", user="ada", items=2))
        assert await _grants(here, "ada") == []
        await _has_read(here, registered("ada", email_verified=True))
        await _has_read(here, here.request("late", user="ada", items=2))
        await _has_read(here, registered("ada", email_verified=True))
        announced = await prove(here, *GROUPS)
    assert await _grants(here, "ada") == [("eager", 5, "welcome")]
    decided = {e.data["pipeline_id"]: e.type for t, _, e in announced if t.startswith("pipeline.")}
    assert decided == {"early": "PipelineDeniedV1", "late": "PipelineInitiatedV1"}


async def test_referrals_have_their_amount_and_the_referrer_a_bonus_once(here: World) -> None:
    settings: dict[str, Any] = {
        "provisioning": "auto",
        "welcome_by_referral": {"spring": 8.5},
        "referral_bonus_credits": 1.5,
    }
    async with here.running(*GROUPS, "relay", **settings):
        await _has_read(here, registered("bob"), registered("eve", referral="spring"))
        await _has_read(here, here.request(user="ada", items=2))  # before her registration is read
        sent = [registered(user, referral="user:bob") for user in ("ada", "ada", "cat", "bob")]
        await _has_read(here, *_spread(sent), registered("dan", referral="user:nobody"))
        await _has_read(
            here, registered("cat", referral="user:eve"), registered("fay", referral="x@y.example")
        )
        await prove(here, *GROUPS)
    assert await _grants(here, "eve") == [("eager", 8.5, "referral:spring")]
    assert await _grants(here, "cat") == [("eager", 5, "referral:user")]
    assert await _grants(here, "fay") == [("eager", 5, "referral:other")]
    assert await _grants(here, "ada") == [("lazy", 5, "welcome")]
    bonus = (None, 1.5, "referral_bonus")
    assert await _grants(here, "bob") == [("eager", 5, "welcome"), bonus, bonus], "ada and cat"
    assert (await here.ledger.balance("user:nobody")).sequence == 0


async def test_arms_depend_on_the_user_alone_and_are_recorded(here: World) -> None:
    users = [f"u{n}" for n in range(60)]
    arms = {"control": 5, "less": 2.5, "more": 10}
    async with here.running(*GROUPS, "relay", provisioning="auto", welcome_arms=arms):
        await _has_read(here, *map(registered, users[:30]))
        await _has_read(here, *(here.request(user=user, items=2) for user in users[30:]))
        await prove(here, *GROUPS)
    rows = await here.pool.fetch(GRANTS)
    assert [r["amount"] for r in rows] == [arms[r["arm"]] * 1_000_000 for r in rows]
    chosen = {r["subject"]: r["arm"] for r in rows}
    assert len(chosen) == 60
    assert set(chosen.values()) == set(arms)
    known = {"user:u0": "control", "user:u2": "more", "user:u3": "less"}
    assert known.items() <= chosen.items(), "the same on every machine, in every run"


async def test_milestones_release_their_part_once(here: World) -> None:
    parts = {"first_pipeline": 2, "email_verified": 2}
    async with here.running(*GROUPS, "relay", provisioning="auto", welcome_milestones=parts):
        await _has_read(here, registered("ada"))
        assert await _grants(here, "ada") == [("eager", 1, "welcome")]
        await _has_read(here, here.request("p0", user="ada", items=2))
        await _has_read(
            here, registered("ada", email_verified=True), finished("p0", "ada", status="failed")
        )
        assert await _grants(here, "ada") == [
            ("eager", 1, "welcome"),
            ("milestone", 2, "milestone:email_verified"),
        ]
        await _has_read(here, *(here.request(f"p{n}", user="ada", items=2) for n in range(1, 4)))
        unknown = [finished("nobody asked", "ada"), finished("p1", "eve")]
        await _has_read(here, *unknown)
        assert len(await _grants(here, "ada")) == 2, "a pipeline of their own, that was let in"
        ends = [finished(f"p{n}", "ada") for n in (1, 2, 3) for _ in "ab"]
        await _has_read(
            here, *_spread(ends), *(registered("ada", email_verified=True) for _ in "12")
        )
        await prove(here, *GROUPS)
    assert await _grants(here, "ada") == [
        ("eager", 1, "welcome"),
        ("milestone", 2, "milestone:email_verified"),
        ("milestone", 2, "milestone:first_pipeline"),
    ]


async def test_a_milestone_reached_before_the_welcome_comes_with_it(here: World) -> None:
    settings: dict[str, Any] = {
        "provisioning": "auto",
        "welcome_verified_only": True,
        "welcome_milestones": {"first_pipeline": 2, "email_verified": 2},
    }
    await here.ledger.set_balance("org:school", 100)
    async with here.running(*GROUPS, "relay", **settings):
        await _has_read(here, here.request("p", user="ada", org="school", items=2))
        await _has_read(here, finished("p", "ada", org_id="school"))
        await _has_read(here, registered("ada", email_verified=True))
        await prove(here, *GROUPS)
    assert await _grants(here, "ada") == [
        ("eager", 3, "welcome"),
        ("milestone", 2, "milestone:email_verified"),
    ]


async def test_a_new_milestone_pays_nobody_who_had_the_whole_amount(here: World) -> None:
    async with here.running(*GROUPS, "relay", provisioning="auto"):
        await _has_read(here, here.request("p", user="ada", items=2))
    parts = {"first_pipeline": 2, "email_verified": 2}
    async with here.running(*GROUPS, "relay", provisioning="auto", welcome_milestones=parts):
        await _has_read(here, finished("p", "ada"), registered("ada", email_verified=True))
        await prove(here, *GROUPS)
    assert await _grants(here, "ada") == [("lazy", 5, "welcome")]


async def test_a_bad_registration_goes_to_the_dead_letters_and_stops_nothing(here: World) -> None:
    async with here.running("provisioning", "relay", provisioning="auto"):
        bad = [
            Raw("users.registered", b"no event", b"k"),
            raw("users.registered", "UserRegisteredV1", {"email": "a@b.example"}, "nobody"),
            raw("users.registered", "UsageRecordedV1", {"user_id": "x"}, "other"),
            registered("ada", "same", referral="b"),
        ]
        good = [registered("ada", "same"), registered("odd", referral="user:"), registered("eve")]
        # In one partition, so that the conflict is the one that comes later.
        await here.send(*(Raw(r.topic, r.value, b"k", r.headers, 0) for r in (*good, *bad)))
        await prove(here, "provisioning")
    letters = [dict(r.headers)["faregate-error"] for r in await here.dead("users.registered")]
    assert letters == [
        b"invalid_json",
        b"invalid_data",
        b"unknown_type",
        b"idempotency_conflict",
    ]
    assert len(await here.pool.fetch(GRANTS)) == 3


async def test_a_restart_of_the_consumer_goes_on_where_it_was(here: World) -> None:
    async with here.running("provisioning", "relay", provisioning="auto"):
        await _has_read(here, *(registered(f"a{n}") for n in range(10)), groups=("provisioning",))
    await here.send(*(registered(f"b{n}") for n in range(10)))
    async with here.running("provisioning", "relay", provisioning="auto"):
        await prove(here, "provisioning")
        await until(lambda: _count(here, 20), what="twenty registrations")


async def _count(here: World, wanted: int) -> bool:
    found = await here.pool.fetchval("SELECT count(*) FROM outcomes WHERE command = 'register'")
    return bool(found == wanted)
