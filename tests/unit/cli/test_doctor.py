"""The doctor's judgements, without servers."""

from __future__ import annotations

import pytest

from faregate.runtime import doctor


@pytest.mark.parametrize(
    ("lag", "members", "state"),
    [(0, 1, "OK"), (0, 0, "WARN"), (5, 0, "FAIL"), (50_000, 1, "WARN")],
)
def test_a_consumer_with_records_to_read_and_nobody_to_read_them_fails(
    lag: int, members: int, state: str
) -> None:
    check = doctor._consumer("deduction", lag, members)
    assert check.state == state
    assert state == "OK" or "faregate run deduction" in (check.fix or "")


@pytest.mark.parametrize(
    ("key", "value", "should", "loses"),
    [
        ("retention.ms", "1000", "2000", True),
        ("retention.ms", "3000", "2000", False),
        ("retention.ms", "-1", "2000", False),
        ("retention.ms", "2000", "-1", True),
        ("max.message.bytes", "10", "20", True),
        ("cleanup.policy", "compact", "delete", True),
    ],
)
def test_a_topic_that_can_lose_records_is_a_failure(
    key: str, value: str, should: str, *, loses: bool
) -> None:
    assert doctor._loses(key, value, should) is loses
