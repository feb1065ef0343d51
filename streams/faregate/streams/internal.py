"""The topics that only the streams use: changelogs of their tables, and one to regroup by.

They are declared here and made by us, with the installation's prefix: Faust creates nothing.
"""

from collections.abc import Iterable

from faregate.events.topics import DAY_MS, FOREVER, Topic
from faregate.streams.sources import application

LINKS = "links"
"""Of `fraud`: registrations again, keyed by what is counted (a domain, a referrer, a user)."""

TABLES: dict[str, dict[str, float | None]] = {
    "burn": {"accounts": None, "minute": 3 * 60.0, "hour": 3 * 3600.0, "day": 3 * 86_400.0},
    "denials": {"accounts": None, "windows": 86_400.0},
    "attribution": {"accounts": None, "hour": 3 * 3600.0, "day": 3 * 86_400.0},
    "fraud": {"groups": 6 * 3600.0, "senders": None, "trials": None},
    "reconcile": {"accounts": None},
}
"""Each stream's tables; of windows, after how many seconds one is forgotten."""


def links_topic(prefix: str) -> str:
    """Give the full name of the topic that `fraud` regroups by."""
    return f"{application(prefix, 'fraud')}-{LINKS}"


def internal_topics(names: Iterable[str]) -> tuple[Topic, ...]:
    """Describe the internal topics of some streams, by their names without prefix."""
    found: list[Topic] = []
    for name in names:
        found += [_changelog(name, *table) for table in TABLES[name].items()]
        if name == "fraud":
            key = "what is counted, e.g. domain:example.com"
            found.append(Topic(links_topic(""), 0, DAY_MS, key, ()))
    return tuple(found)


def _changelog(stream: str, table: str, expires_s: float | None) -> Topic:
    name = f"{application('', stream)}-{table}-changelog"
    key = "the key of the table, as JSON"
    if expires_s is None:
        return Topic(name, 0, FOREVER, key, (), "compact")
    # A day longer than the windows live: time for a worker that was away.
    retention_ms = int(expires_s * 1000) + DAY_MS
    return Topic(name, 0, retention_ms, key, (), "compact,delete")
