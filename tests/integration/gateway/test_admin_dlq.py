"""Dead letters over HTTP, on a real Kafka: listed, shown, replayed, and who did it is logged."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
from tests.helpers.acting import sound
from tests.helpers.kafka import Raw
from tests.helpers.servers import Stack
from tests.helpers.world import World, world
from tests.integration.gateway.calling import Person, Town, town

from faregate.consumers.kafka import Cluster
from faregate.gateway.dead_letters import QueueUnavailable
from faregate.runtime.dead_letters import Queues

pytestmark = pytest.mark.stack

DLQ = "/v1/admin/dlq"


@pytest.fixture
async def installed(stack: Stack, database_url: str) -> AsyncIterator[World]:
    async with world(stack.kafka, database_url) as made:
        yield made


@pytest.fixture
async def there(installed: World) -> AsyncIterator[Town]:
    """A gateway beside that Kafka."""
    queues = Queues(installed.cluster)
    async with town(installed.store, dead_letters=queues, sign_ins_per_minute=1000) as found:
        yield found


async def die(installed: World, *records: Raw) -> None:
    """Send records that end as dead letters, one after the other: so their order is known."""
    async with installed.running("deduction", "relay"):
        await installed.settled("deduction")
        for record in records:
            await installed.send(record)
            await installed.settled("deduction")


def broken(name: str) -> Raw:
    return Raw("usage.recorded", f"no event: {name}".encode(), name.encode(), (("mine", b"1"),))


async def listed(admin: Person, query: str = "") -> list[str]:
    """Give the keys of what is listed, over all pages of two."""
    keys, cursor = [], ""
    while True:
        page = await admin.get(f"{DLQ}?limit=2{query}{cursor}")
        assert page.status == 200, page.json
        keys += [letter["key"] for letter in page["letters"]]
        if page["next_cursor"] is None:
            return keys
        cursor = f"&cursor={page['next_cursor']}"


async def test_dead_letters_are_listed_shown_and_replayed(installed: World, there: Town) -> None:
    admin = await there.admin()
    assert (await admin.get(DLQ)).json == {"letters": [], "next_cursor": None}
    old = installed.usage("ada", occurred_at="2019-01-01T00:00:00Z")
    await die(installed, *(broken(f"k{n}") for n in range(5)), old)
    keys = await listed(admin)
    assert keys == ["user:ada", "k4", "k3", "k2", "k1", "k0"], "newest first, each once"
    assert await listed(admin, "&error=invalid_json&topic=usage.recorded") == keys[1:]
    assert await listed(admin, "&error=occurred_at_out_of_range") == keys[:1]
    assert await listed(admin, "&topic=pipeline.requests") == []

    letter = next(x for x in (await admin.get(DLQ))["letters"] if x["key"] == "k4")
    shown = await admin.get(f"{DLQ}/{letter['id']}")
    assert {n: shown[n] for n in letter} == letter
    assert (shown["value"], shown["headers"], shown["event"]) == (
        "no event: k4",
        [["mine", "1"]],
        None,
    )
    late = (await admin.get(f"{DLQ}?error=occurred_at_out_of_range"))["letters"][0]
    event = (await admin.get(f"{DLQ}/{late['id']}"))["event"]
    assert (event["type"], event["data"]["user_id"]) == ("UsageRecordedV1", "ada")

    done = await admin.post(f"{DLQ}/{letter['id']}/replay")
    assert (done.status, done["replayed"]) == (200, 1)
    (record,) = done["records"]
    assert record["id"] == letter["id"]
    assert record["topic"] == f"{installed.prefix}usage.recorded"
    await die(installed)
    again = [x for x in (await admin.get(DLQ))["letters"] if x["key"] == "k4"]
    assert [x["attempts"] for x in again] == [2, 1], "tried, and dead once more"

    logged = (await admin.get("/v1/admin/audit?limit=1"))["entries"][0]
    assert (logged["action"], logged["result"], logged["user_id"], logged["metadata"]) == (
        "dlq_replay",
        "requested",
        admin.user_id,
        {"letter": letter["id"]},
    )
    await sound(installed.store)


class Interrupted(Queues):
    """Queues whose Kafka goes away after the act was logged and before it is done, once."""

    tries = 0

    async def replay(self, letter_id: str) -> dict[str, Any]:
        self.tries += 1
        if self.tries == 1:
            raise QueueUnavailable
        return await super().replay(letter_id)


async def test_a_replay_with_a_key_is_published_and_logged_once(installed: World) -> None:
    queues = Interrupted(installed.cluster)
    async with (
        town(installed.store, dead_letters=queues, sign_ins_per_minute=1000) as here,
        town(installed.store, dead_letters=queues) as there,
    ):
        admin = await here.admin()
        await die(installed, broken("k0"), broken("k1"))
        other, path = [f"{DLQ}/{x['id']}/replay" for x in (await admin.get(DLQ))["letters"]]
        assert (await admin.post(path, key="k")).problem == (503, "check_unavailable")
        both = (admin, Person(there.http, admin.token)) * 5
        answers = await asyncio.gather(*(person.post(path, key="k") for person in both))
        assert [(a.status, a.json) for a in answers] == [(200, answers[0].json)] * 10
        assert queues.tries == 2
        assert (await admin.post(other, key="k")).problem == (409, "idempotency_conflict")
        logged = (await admin.get("/v1/admin/audit"))["entries"]
        assert [entry["action"] for entry in logged] == ["dlq_replay"]
        await die(installed)
        found = [x["attempts"] for x in (await admin.get(DLQ))["letters"] if x["key"] == "k0"]
        assert found == [2, 1]
        locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database ="
        mine = f"{locks} (SELECT oid FROM pg_database WHERE datname = current_database())"
        assert await installed.pool.fetchval(mine) == 0


async def test_what_is_no_dead_letter_is_not_found_and_not_logged(there: Town) -> None:
    admin = await there.admin()
    for name in ("usage.recorded:0:0", "usage.recorded:9:0", "credits.ledger:0:0"):
        assert (await admin.get(f"{DLQ}/{name}")).problem == (404, "not_found")
        assert (await admin.post(f"{DLQ}/{name}/replay")).problem == (404, "not_found")
    for name in ("usage.recorded", "usage.recorded:0:-1", "x", "usage.recorded:0:1:2"):
        assert (await admin.get(f"{DLQ}/{name}")).status in {400, 404}
    for query in ("cursor=x", "cursor=1", "cursor=1:usage.recorded", "limit=0", "topic=x"):
        assert (await admin.get(f"{DLQ}?{query}")).problem == (400, "validation_failed")
    assert (await admin.get("/v1/admin/audit"))["entries"] == []


async def test_a_kafka_that_is_away_is_a_503(installed: World) -> None:
    away = Queues(Cluster("127.0.0.1:1", installed.prefix, 6000))
    for queues in (away, None):
        async with town(installed.store, dead_letters=queues, sign_ins_per_minute=1000) as here:
            admin = await here.admin(f"{uuid4()}@example.com")
            for path in (DLQ, f"{DLQ}/usage.recorded:0:0"):
                assert (await admin.get(path)).problem == (503, "check_unavailable")
            path = f"{DLQ}/usage.recorded:0:0/replay"
            assert (await admin.post(path)).problem == (503, "check_unavailable")


async def test_dead_letters_are_for_platform_admins(installed: World, there: Town) -> None:
    boss = await there.person()
    await there.org(boss)
    await die(installed, broken("secret"))
    for person in (boss, there.nobody):
        refused = (403, "forbidden") if person.token else (401, "unauthenticated")
        assert (await person.get(DLQ)).problem == refused
        assert (await person.get(f"{DLQ}/usage.recorded:0:0")).problem == refused
        assert (await person.post(f"{DLQ}/usage.recorded:0:0/replay")).problem == refused
