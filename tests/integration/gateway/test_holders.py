"""A hold stays whose it is: what was used is charged, whatever its maker belongs to since."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from tests.integration.gateway.calling import Person, Reply, Town

from faregate.ledger import acts
from faregate.ledger.verify import verify

pytestmark = [
    pytest.mark.stack,
    pytest.mark.parametrize("together", [False, True], ids=["alone", "in a batch"]),
]


async def held(person: Person, credits_: int, **more: Any) -> str:
    reply = await person.post("/api/v1/holds", {"credits": credits_, "reference": "s"}, **more)
    assert reply.status == 201, reply.json
    return str(reply["hold_id"])


async def act(person: Person, together: bool, op: str, hold: str, **body: Any) -> Any:
    """Settle or release a hold; give the answer."""
    reply: Reply
    if together:
        operations = [{"op": op, "hold_id": hold, **body}]
        reply = await person.post("/api/v1/holds/batch", {"operations": operations})
        assert reply.status == 200, reply.json
        return reply["results"][0]
    reply = await person.post(f"/api/v1/holds/{hold}/{op}", body or None)
    return reply.json


async def test_who_founds_an_org_settles_what_they_held_before(here: Town, together: bool) -> None:
    ada = await here.rich(100)
    used, left = await held(ada, 30), await held(ada, 7)
    await here.org(ada, 500)
    done = await act(ada, together, "settle", used, credits=20)
    assert (done["credits"], done["balance"], done["payer"]) == (20, 80, f"user:{ada.user_id}")
    assert (await act(ada, together, "release", left))["released_credits"] == 7
    assert (await verify(here.store.pool)).ok


async def test_who_is_removed_from_an_org_settles_what_they_held_of_it(
    here: Town, together: bool
) -> None:
    boss = await here.person()
    org = await here.org(boss, 500)
    mate = await here.member(boss, org, 100)
    used, left = await held(mate, 30), await held(mate, 7)
    await acts.set_member(
        here.store, f"org:{org}", f"user:{mate.user_id}", "removed", actor="test", key="out"
    )
    done = await act(mate, together, "settle", used, credits=20)
    assert (done["credits"], done["balance"], done["payer"]) == (20, 480, f"org:{org}")
    assert (await act(mate, together, "release", left))["released_credits"] == 7
    refused = await act(mate, together, "settle", left, credits=1)  # it is over
    assert (refused["status"], refused["reason"]) == (403, "not_a_member")
    refused = await mate.post("/api/v1/holds", {"credits": 1, "reference": "s"}, org=org)
    assert refused.problem == (403, "not_a_member")
    assert (await verify(here.store.pool)).ok


async def test_who_is_removed_charges_the_org_no_more_than_they_held(
    here: Town, together: bool
) -> None:
    """Else an old hold of next to nothing is a way to take everything that the org has."""
    boss = await here.person()
    org = await here.org(boss, 500)
    mate = await here.member(boss, org, 100)
    hold = await held(mate, 30)
    assert (await boss.call("DELETE", f"/api/v1/org/{org}/members/{mate.user_id}")).status == 204
    refused = await act(mate, together, "settle", hold, credits=31)
    assert (refused["status"], refused["reason"]) == (403, "not_a_member")
    assert "no more than is left of a hold" in refused["detail"]
    assert (await act(mate, together, "settle", hold, credits=30))["balance"] == 470


async def test_who_is_in_two_orgs_need_not_say_whose_hold_it_is(here: Town, together: bool) -> None:
    boss = await here.person()
    org = await here.org(boss, 500)
    mate = await here.member(boss, org, 100)
    hold = await held(mate, 30)
    await here.org(mate)
    if together:
        asked = {"op": "reserve", "credits": 1}
        body = {"operations": [{"op": "settle", "hold_id": hold, "credits": 20}, asked]}
        done, refused = (await mate.post("/api/v1/holds/batch", body))["results"]
        assert (refused["status"], refused["reason"]) == (400, "org_ambiguous")
    else:
        done = await act(mate, together, "settle", hold, credits=20)
    assert (done["credits"], done["payer"]) == (20, f"org:{org}")
    eve = await here.member(boss, org, 100)
    refused = await act(eve, together, "settle", await held(mate, 1, org=org), credits=1)
    unknown = await act(eve, together, "settle", str(uuid4()), credits=1)
    assert refused == unknown
    assert refused["type"] == "urn:faregate:problem:unknown_hold"
