"""How many records a batch may have: it holds its accounts' locks (rule 3)."""

from faregate.consumers.loop_settings import LoopSettings
from faregate.consumers.sizing import BatchSize

SETTINGS = LoopSettings(batch=100, batch_under_lag=800, slow_batch_s=0.5)


def _after(*batches: tuple[float, int]) -> list[int]:
    """Give the size after each batch of so many seconds, with so many records waiting then."""
    size, sizes = BatchSize(SETTINGS), []
    for seconds, waiting in batches:
        size.took(seconds, waiting)
        sizes.append(size.most)
    return sizes


def test_a_batch_takes_a_part_of_what_waits_within_its_bounds() -> None:
    assert BatchSize(SETTINGS).most == 100
    waiting = [0, 1_200, 1_600, 4_000, 12_800, 180_000, 4_000, 0]
    assert _after(*[(0.1, n) for n in waiting]) == [100, 100, 100, 250, 800, 800, 250, 100]


def test_much_waits_only_where_a_part_of_it_is_more_than_four_batches() -> None:
    size = BatchSize(SETTINGS)
    much = [size.much_waits]
    for waiting in (1_600, 6_400, 6_416, 90_000, 4_000):
        size.took(0.1, waiting)
        much.append(size.much_waits)
    assert much == [False, False, False, True, True, False]


def test_what_waits_is_a_backlog_once_it_is_late_or_very_much() -> None:
    size = BatchSize(SETTINGS)

    def after(waiting: int, behind_s: float) -> tuple[int, bool]:
        size.took(0.1, waiting, behind_s)
        return size.most, size.much_waits

    assert after(1_000, 0.1) == (100, False)
    assert after(2_400, 0.5) == (150, False)
    assert after(12_800, 2.9) == (200, False), "a burst"
    assert after(12_800, 3.0) == (800, True)
    assert after(19_999, -60.0) == (200, False), "a producer whose clock is ahead"
    assert after(20_000, -60.0) == (800, True)


def test_a_slow_batch_halves_what_follows_and_a_quick_one_doubles_it() -> None:
    much = 90_000
    assert _after((0.1, much), (0.6, much), (0.6, much), (0.6, much), (0.6, much)) == [
        800,
        400,
        200,
        100,
        100,
    ]
    assert _after((0.1, much), (0.6, much), (0.6, much), (0.1, much), (0.1, much)) == [
        800,
        400,
        200,
        400,
        800,
    ]


def test_a_batch_that_failed_is_halved_down_to_one_record_and_soon_grown_again() -> None:
    size = BatchSize(SETTINGS)
    for _ in range(10):
        size.failed()
    assert size.most == 1
    sizes = []
    for _ in range(8):
        size.took(0.01, 0)
        sizes.append(size.most)
    assert sizes == [2, 4, 8, 16, 32, 64, 100, 100]


def test_a_slow_batch_never_raises_what_had_to_be_lowered() -> None:
    size = BatchSize(SETTINGS)
    size.failed()
    size.took(0.6, 90_000)
    assert size.most == 50


def test_what_is_read_beside_a_hand_makes_no_more_than_two_batches() -> None:
    size = BatchSize(SETTINGS)
    size.took(0.1, 90_000)
    assert [size.beside(n) for n in (0, 700, 701, 1_400, 1_500, 9_000)] == [
        800,
        800,
        799,
        100,
        100,
        100,
    ]
