"""Records of hot paths: what a frozen dataclass gives, but for the guard at run time."""

import dataclasses

from faregate.events.records import dataclass


@dataclass(frozen=True, slots=True)
class _Point:
    x: int
    y: int = 2


def test_records_compare_hash_and_copy_as_frozen_dataclasses_do() -> None:
    @dataclasses.dataclass(frozen=True, slots=True)
    class Frozen:
        x: int
        y: int = 2

    assert _Point(1) == _Point(1, 2) != _Point(1, 3)
    assert hash(_Point(1)) == hash(Frozen(1))
    assert dataclasses.replace(_Point(1), y=5) == _Point(1, 5)
    assert repr(_Point(1)) == "_Point(x=1, y=2)"
    assert not hasattr(_Point(1), "__dict__")


def test_a_record_that_is_not_frozen_has_no_hash() -> None:
    @dataclass(slots=True)
    class Open:
        x: int

    assert Open.__hash__ is None
