"""What a call has written and what is read back of it later are the same."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from tests.helpers.ledger import Ledger, Submissions

from faregate.gateway.stored import Stored, read_back, written
from faregate.ledger import acts
from faregate.ledger.batch import Submission
from faregate.ledger.store import Store

pytestmark = pytest.mark.stack


async def both(store: Store, made: Sequence[Submission]) -> tuple[list[Stored], list[Stored]]:
    """Decide a batch; give what it says it wrote, and what the database has, in its order."""
    now, later = written(await store.take(made)), await read_back(store, made)
    assert len(now) == len(later) == len(made)
    keys = [s.command.identity.event_key for s in made]
    return [now[key] for key in keys], [later[key] for key in keys]


async def test_a_batch_is_answered_from_its_own_rows_now_and_later(store: Store) -> None:
    make = Submissions(store.keys)
    await acts.set_member(store, "org:acme", "user:bob", "member", actor="test", key="bob")
    await Ledger(store).usage(user="before")
    made = [
        make.grant("user:ada", 50),
        make.grant("org:acme", 60, kind="bonus"),
        make.grant("user:bob", 70),
        make.request("p1", user="ada", items=10),
        make.request("p2", user="ada", items=10),
        make.usage("p1", user="ada", units=3),
        make.usage(user="bob", org="acme", units=4),
        make.set_balance("user:eve", 5),
        make.usage(user="eve", units=9),
        make.finish("p1", user="ada"),
    ]
    now, later = await both(store, made)
    assert now == later
    wrote = [[(e.account, e.kind, e.amount // 1_000_000) for e in s.entries] for s in now]
    assert wrote[0] == [("user:ada", "purchase", 50)]
    assert wrote[1] == [("org:acme", "bonus", 60)]
    assert wrote[5] == [("user:ada", "usage", -3)]
    ids = [e.id for stored in now for e in stored.entries]
    rows = await store.pool.fetch(
        """SELECT e.id, s.subject, e.kind, e.amount FROM entries e JOIN subjects s USING (account_id)
        WHERE e.id = ANY ($1::bigint[])""",
        ids,
    )
    in_database = {r["id"]: (r["subject"], r["kind"], r["amount"]) for r in rows}
    assert in_database == {e.id: (e.account, e.kind, e.amount) for s in now for e in s.entries}
    assert [s.result for s in now][3:5] == ["initiated", "denied"]
    assert (now[5].entry("usage", "user:ada"), now[5].entry("usage", "user:bob")) == (
        now[5].entries[0],
        None,
    )
