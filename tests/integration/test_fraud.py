"""Suspicions of fraud on the command line and over HTTP: listed, decided about, logged."""

from __future__ import annotations

import asyncio
import json
import os
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import uuid4

import pytest
from tests.helpers.forking import faregate
from tests.helpers.kafka import Raw
from tests.helpers.world import World
from tests.integration.gateway.calling import town

from faregate.events import FraudSuspectedV1, Publisher
from faregate.ledger.verify import verify
from faregate.runtime import fraud

pytestmark = pytest.mark.stack

NOW = datetime.now(UTC)


async def suspect(here: World, case_id: str, count: int, account: str = "domain:x.example") -> None:
    """Say what the stream would say."""
    signal = FraudSuspectedV1(
        case_id=case_id,
        rule="many_registrations",
        account=account,
        count=count,
        users=["user:a", "user:b"],
        window_start=NOW,
        window_end=NOW + timedelta(hours=1),
        limit=20,
    )
    async with Publisher(here.kafka, "faregate/streams", prefix=here.prefix) as publisher:
        await publisher.publish(signal)


async def command(here: World, *words: str, code: int = 0) -> Any:
    """Run `faregate fraud …` and give its JSON."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("FAREGATE_")}
    process = await asyncio.create_subprocess_exec(
        *faregate(), "fraud", *words, "--json",
        env=env | here.environment(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode == code, err.decode()
    return json.loads(out)


async def test_a_case_is_listed_until_somebody_has_decided(here: World) -> None:
    case, other = str(uuid4()), str(uuid4())
    await suspect(here, case, 21)
    await suspect(here, case, 31)
    await suspect(here, other, 21, "referral:spring-sale")
    await here.send(Raw("signals.fraud", b"no event", b"x"))
    found = await command(here, "list")
    assert [(c["case_id"], c["count"], c["review"]) for c in found] == [
        (case, 31, None),
        (other, 21, None),
    ]
    done = await command(here, "review", case, "dismissed", "--reason", "known_school")
    assert (done["case_id"], done["verdict"]) == (case, "dismissed")
    assert [c["case_id"] for c in await command(here, "list")] == [other]
    (first, _) = await fraud.reviewed(here.store, here.cluster)
    assert first["review"]["verdict"] == "dismissed"
    assert first["review"]["reason"] == "known_school"
    refused = await command(here, "review", str(uuid4()), "confirmed", code=1)
    assert refused["error"] == "unknown_case"


async def test_admins_list_and_decide_over_http_and_every_decision_is_logged(here: World) -> None:
    case = str(uuid4())
    await suspect(here, case, 21)
    async with town(here.store, fraud_cases=partial(fraud.cases, here.cluster)) as gateway:
        admin, ada = await gateway.admin(), await gateway.person()
        path = f"/v1/admin/fraud/{case}"
        assert (await ada.get("/v1/admin/fraud")).problem == (403, "forbidden")
        assert (await ada.post(path, {"verdict": "dismissed"})).problem == (403, "forbidden")
        listed = await admin.get("/v1/admin/fraud")
        assert [(c["case_id"], c["count"], c["review"]) for c in listed["cases"]] == [
            (case, 21, None)
        ]
        wrong = await admin.post(path, {"verdict": "guilty"})
        assert wrong.problem == (400, "validation_failed")
        named = await admin.post(path, {"verdict": "confirmed", "reason": "it was Bob"})
        assert named.problem == (400, "validation_failed")
        unknown = await admin.post(f"/v1/admin/fraud/{uuid4()}", {"verdict": "confirmed"})
        assert unknown.problem == (404, "not_found")
        for verdict in ("confirmed", "confirmed", "dismissed"):  # one of them said twice
            done = await admin.post(path, {"verdict": verdict})
            assert (done.status, done["verdict"]) == (200, verdict)
        listed = await admin.get("/v1/admin/fraud")
        assert listed["cases"][0]["review"]["verdict"] == "dismissed"
        assert listed["cases"][0]["review"]["by"] == admin.user_id
        log = (await admin.get("/v1/admin/audit"))["entries"]
        acts = [(e["action"], e["result"], e["metadata"]["case_id"]) for e in log][:2]
        assert acts == [("review_fraud", "dismissed", case), ("review_fraud", "confirmed", case)]
    assert (await verify(here.pool)).ok


async def test_without_kafka_the_list_is_not_available(here: World) -> None:
    async with town(here.store) as gateway:
        admin = await gateway.admin()
        assert (await admin.get("/v1/admin/fraud")).problem == (503, "check_unavailable")
