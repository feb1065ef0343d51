"""Records whose header names are not UTF-8.

Kafka's protocol says they are; brokers do not check, and not all clients keep to it. aiokafka
raises on the first such record whenever it comes to it, so nobody would ever get beyond it.
`tolerate` makes this process read them, the odd bytes escaped, with aiokafka's slower parser.
"""

from __future__ import annotations

from typing import Any

import structlog
from aiokafka.consumer import fetcher
from aiokafka.record import default_records, memory_records

log = structlog.get_logger("faregate.headers")


class _Text(bytes):
    def decode(self, *_: Any) -> str:
        return str(bytes(self), "utf-8", "backslashreplace")


class _Buffer(bytearray):
    def __getitem__(self, key: Any) -> Any:
        part = super().__getitem__(key)
        return _Text(part) if isinstance(key, slice) else part


class _Batch(default_records._DefaultRecordBatchPy):  # type: ignore[misc]  # noqa: SLF001
    _buffer: Any

    def _maybe_uncompress(self) -> None:
        super()._maybe_uncompress()
        if not isinstance(self._buffer, _Buffer):
            self._buffer = _Buffer(self._buffer)


class _Records(memory_records._MemoryRecordsPy):  # type: ignore[misc]  # noqa: SLF001
    def next_batch(self) -> Any:
        following = self._next_slice
        if following is None or following[self.MAGIC_OFFSET] < 2:  # noqa: PLR2004 - without headers
            return super().next_batch()
        self._cache_next()
        return _Batch(following)


def tolerate() -> None:
    """Read records with such header names from now on, in this whole process."""
    if fetcher.MemoryRecords is not _Records:
        log.warning("header_name_not_utf8", doing="reading with the slower, tolerant parser")
        fetcher.MemoryRecords = _Records
