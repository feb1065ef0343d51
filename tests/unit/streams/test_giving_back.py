"""What Faust would throw away is given back to the client: deterministic, without servers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from faregate.streams.apps import base

MINE, OTHER = TP("credits.ledger", 0), TP("credits.ledger", 1)
POLLED = {MINE: [SimpleNamespace(offset=7)], OTHER: [SimpleNamespace(offset=3)]}


class Thread:
    def __init__(self) -> None:
        self.given: dict[TP, Any] = {}

    async def give_back(self, records: dict[TP, Any]) -> None:
        self.given |= records


@pytest.mark.parametrize(
    ("flow", "active", "stops", "wanted"),
    [
        (True, {MINE, OTHER}, False, {MINE, OTHER}),
        (True, None, False, {MINE, OTHER}),
        (True, {MINE}, False, {MINE}),
        (True, set(), False, set()),
        (False, {MINE, OTHER}, False, set()),
        (False, {MINE, OTHER}, True, {MINE, OTHER}),
    ],
)
async def test_what_faust_does_not_want_now_is_given_back(
    monkeypatch: pytest.MonkeyPatch,
    flow: bool,
    active: set[TP] | None,
    stops: bool,
    wanted: set[TP],
) -> None:
    async def polled(_self: object, _seconds: float) -> Any:
        return dict(POLLED), active

    monkeypatch.setattr(driver.Consumer, "_wait_next_records", polled)
    monkeypatch.setattr(base._Consumer, "should_stop", stops)
    consumer: Any = base._Consumer.__new__(base._Consumer)
    consumer.flow_active, consumer._buffered_partitions = flow, set()
    consumer._thread = thread = Thread()
    records, still_active = await consumer._wait_next_records(1.0)
    assert (records.keys(), still_active) == (wanted, active)
    assert thread.given.keys() == POLLED.keys() - wanted


async def test_it_is_read_from_where_it_began_unless_it_is_read_anew() -> None:
    behind, ahead, anew = TP("a", 0), TP("a", 1), TP("a", 2)
    states = {
        behind: SimpleNamespace(has_valid_position=True, position=9),
        ahead: SimpleNamespace(has_valid_position=True, position=2),
        anew: SimpleNamespace(has_valid_position=False),
    }
    sought: dict[TP, int] = {}
    assignment = SimpleNamespace(state_value=states.get)
    client = SimpleNamespace(
        _subscription=SimpleNamespace(subscription=SimpleNamespace(assignment=assignment)),
        seek=sought.__setitem__,
    )
    thread: Any = base._ConsumerThread.__new__(base._ConsumerThread)
    thread._ensure_consumer = lambda: client
    gone = TP("a", 3)
    await thread._give_back({tp: [SimpleNamespace(offset=5)] for tp in (behind, ahead, anew, gone)})
    assert sought == {behind: 5}
