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


def test_it_grows_while_there_is_a_backlog() -> None:
    assert _after((100, 0.1), (100, 0.11), (200, 0.1), (400, 0.1), (800, 0.1)) == [
        100,
        200,
        400,
        800,
        800,
    ]


def test_full_batches_now_and_then_are_no_backlog() -> None:
    batches = [(100, 0.1), (99, 0.1)] * 5
    assert set(_after(*batches)) == {100}


def test_it_shrinks_when_a_batch_is_slow_or_small() -> None:
    grown = [(100, 0.21), (200, 0.1), (400, 0.1)]
    assert _after(*grown, (800, 0.6), (400, 0.1))[-2:] == [400, 800]
    assert _after(*grown, (300, 0.1))[-1] == 800, "there is still much to do"
    assert _after(*grown, (99, 0.1))[-1] == 100


def test_a_batch_that_failed_is_halved_down_to_one_record() -> None:
    size = BatchSize(SETTINGS)
    for _ in range(10):
        size.failed()
    assert size.most == 1
    size.took(0, 0.0, 0.1)
    assert size.most == 100
