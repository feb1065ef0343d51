"""How many records a batch may have: it holds its accounts' locks (rule 3)."""

from faregate.consumers.loop_settings import LoopSettings
from faregate.consumers.sizing import BatchSize

SETTINGS = LoopSettings(batch=100, batch_under_lag=800, slow_batch_s=0.5, backlog_s=0.2)


def _after(*batches: tuple[int, float]) -> list[int]:
    """Give the size after each batch of so many records, one after the other, in so many seconds."""
    size, now, sizes = BatchSize(SETTINGS), 1000.0, []
    for count, seconds in batches:
        size.took(count, now, now + seconds)
        now += seconds
        sizes.append(size.most)
    return sizes


def test_it_doubles_each_time_that_batches_were_full_for_a_while() -> None:
    assert _after((100, 0.1), (100, 0.11), (200, 0.1), (200, 0.11), (400, 0.2), (800, 0.2)) == [
        100,
        200,
        200,
        400,
        800,
        800,
    ]


def test_full_batches_now_and_then_are_no_backlog() -> None:
    batches = [(100, 0.15), (99, 0.15)] * 5
    assert set(_after(*batches)) == {100}


def test_waiting_for_records_is_no_backlog() -> None:
    size = BatchSize(SETTINGS)
    for second in range(5):
        size.took(120, second, second + 0.1)
        size.idle()
    assert size.most == 100


def test_it_shrinks_when_a_batch_is_slow_or_less_than_half_full() -> None:
    grown = [(100, 0.21), (200, 0.2), (400, 0.2)]
    assert _after(*grown, (800, 0.6))[-1] == 400
    assert _after(*grown, (400, 0.1))[-1] == 800
    assert _after(*grown, (399, 0.1))[-1] == 400
    assert _after(*grown, *[(10, 0.1)] * 5)[-1] == 100


def test_a_batch_that_failed_is_halved_down_to_one_record_and_soon_grown_again() -> None:
    size = BatchSize(SETTINGS)
    for _ in range(10):
        size.failed()
    assert size.most == 1
    sizes = []
    for n in range(8):
        size.took(size.most, n / 100, (n + 1) / 100)
        sizes.append(size.most)
    assert sizes == [2, 4, 8, 16, 32, 64, 128, 128]


def test_a_slow_batch_never_raises_what_had_to_be_lowered() -> None:
    size = BatchSize(SETTINGS)
    size.failed()
    size.took(50, 0.0, 0.6)
    assert size.most == 50
