"""What can be set about the streams; `runtime` makes it of its settings."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Options:
    """Where Kafka is, where state is kept, and the thresholds. Times are seconds.

    `directory` None keeps the tables in memory: then they are read again from their changelogs
    at every start.
    """

    bootstrap: str
    prefix: str = ""
    directory: Path | None = None
    replication: int = 1
    session_timeout_s: float = 15.0
    watchdog_s: float = 120.0
    """A stream that has records to read and has read none for so long is ended."""
    every_s: float = 2.0
    """A signal that changed is published after so long, at the latest."""
    runway_alert_s: float = 4 * 3600.0
    """RunwayLowV1 below this runway."""
    denial_window_s: float = 300.0
    """The length of a window of denials."""
    spike_factor: float = 3.0
    """So many times the baseline is a spike."""
    spike_least: int = 5
    """Fewer denials in a window are never a spike."""
    top_names: int = 10
    """How many users, models and phases are listed."""
    close_after_s: float = 120.0
    """A window is closed so long after its end."""
    fraud_registrations: int = 20
    """More registrations than this of one domain or referrer within an hour are suspicious."""
    fraud_drain_s: float = 600.0
    """A trial that is drained sooner than this is suspicious."""
    fraud_drain_percent: int = 90
    """So much of the trial's credits counts as drained."""
    fraud_common_domains: frozenset[str] = frozenset()
    """Domains whose users have nothing in common: they are not counted."""
    reconcile_after_s: float = 30.0
    """A checkpoint that is ahead of the announcements for longer is an alert."""
    kafka: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """What aiokafka's clients take beside the servers (TLS, SASL): never log it."""
