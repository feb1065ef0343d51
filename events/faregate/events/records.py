"""`dataclass` for records that are made by the million.

To type checkers it is the standard one, so `frozen=True` is theirs to enforce. At run time nothing
guards the fields: a frozen dataclass sets each of them through `object.__setattr__`, which makes a
record of 21 fields eight times as dear, and an eighth of a batch of usage was spent in that.
Records compare and hash as frozen ones do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dataclasses import dataclass
else:
    import dataclasses

    def dataclass(*, frozen: bool = False, slots: bool) -> object:
        """Make a dataclass whose fields only type checkers keep from being set again."""
        return dataclasses.dataclass(slots=slots, unsafe_hash=frozen)


__all__ = ["dataclass"]
