"""What is derived: live signals about credits, by Faust. Nothing here reads or moves money.

Each stream is a Faust application of its own: its consumer group, its tables with their changelog
topics, its signals. `rules/` decides, as pure functions over plain data; `apps/` is Faust; the
rest is what both need. A stream may repeat a signal and may be late: see docs/streams.md.
"""

from faregate.streams.options import Options
from faregate.streams.sources import NAMES, SOURCES

__all__ = ["NAMES", "SOURCES", "Options"]
