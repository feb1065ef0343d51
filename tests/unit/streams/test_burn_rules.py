"""The rules of `burn`, without Faust."""

from faregate.streams.rules import burn
from faregate.streams.rules.burn import DAY, HOUR, MINUTE, STEPS, Rates

CREDIT = 1_000_000
NOON = 1_750_000_000 // DAY * DAY + DAY / 2


def test_a_charge_counts_once_in_a_window() -> None:
    window = burn.counted((), (3 * CREDIT, 7))
    assert window == [3 * CREDIT, 7]
    assert burn.counted(window, (3 * CREDIT, 7)) == window
    assert burn.counted(window, (5 * CREDIT, 6)) == window
    assert burn.counted(window, (2 * CREDIT, 8)) == [5 * CREDIT, 8]


def test_the_fullest_window_holds_now_and_nearly_all_that_came_before() -> None:
    for size in (MINUTE, HOUR, DAY):
        for now in (NOON, NOON + 0.5, NOON + STEPS[size] - 0.1):
            start = burn.fullest(now, size)
            assert start <= now < start + size
            assert now - start >= size - STEPS[size]
            assert start % STEPS[size] == 0


def test_a_rate_is_scaled_by_the_part_of_the_window_that_has_passed() -> None:
    assert burn.rate([90 * CREDIT, 1], NOON + 1199, HOUR) < burn.rate([90 * CREDIT, 1], NOON, HOUR)
    assert burn.rate([45 * CREDIT, 1], NOON, HOUR) == 45 * CREDIT * HOUR // 2400
    assert burn.rate((), NOON, HOUR) == 0
    assert Rates(0, 5, 9).shape() == (False, True, True)


def test_the_runway_is_what_is_available_at_the_rate_of_the_hour() -> None:
    assert burn.runway_s(200 * CREDIT, 60 * CREDIT) == 12_000  # 3 h 20 min
    assert burn.runway_s(0, 60 * CREDIT) == 0
    assert burn.runway_s(-5 * CREDIT, 60 * CREDIT) == 0
    assert burn.runway_s(200 * CREDIT, 0) is None


def test_a_low_runway_is_said_once_until_it_has_recovered() -> None:
    assert burn.alert(3599, 3600, alerted=False) == (True, True)
    assert burn.alert(1000, 3600, alerted=True) == (False, True)
    assert burn.alert(4000, 3600, alerted=True) == (False, True)  # above, but barely
    assert burn.alert(4500, 3600, alerted=True) == (False, False)
    assert burn.alert(None, 3600, alerted=True) == (False, False)
    assert burn.alert(3600, 3600, alerted=False) == (False, False)
