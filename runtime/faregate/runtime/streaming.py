"""The streams as a process of the product: their options, and a directory of their own."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from faregate.runtime import stack
from faregate.runtime.settings import Settings
from faregate.streams import Options

_WORKERS = 64


def options(settings: Settings, bootstrap: str, directory: Path | None) -> Options:
    """Give what is set about the streams."""
    return Options(
        bootstrap=bootstrap,
        kafka=settings.kafka_options(),
        prefix=settings.topic_prefix,
        directory=directory,
        replication=settings.replication,
        session_timeout_s=settings.session_timeout_ms / 1000,
        watchdog_s=settings.watchdog_s,
        every_s=settings.streams_every_s,
        runway_alert_s=settings.streams_runway_alert_s,
        denial_window_s=settings.streams_denial_window_s,
        spike_factor=settings.streams_spike_factor,
        spike_least=settings.streams_spike_least,
        top_names=settings.streams_top_names,
        close_after_s=settings.streams_close_after_s,
        fraud_registrations=settings.streams_fraud_registrations,
        fraud_drain_s=settings.streams_fraud_drain_s,
        fraud_drain_percent=settings.streams_fraud_drain_percent,
        fraud_common_domains=frozenset(settings.streams_fraud_common_domains.lower().split()),
        reconcile_after_s=settings.streams_reconcile_after_s,
    )


@contextmanager
def state_directory(settings: Settings) -> Iterator[Path | None]:
    """Reserve a directory for one worker: RocksDB lets one process alone have its files.

    Workers on one machine take `worker-0`, `worker-1` and so on below FAREGATE_STREAMS_DIRECTORY;
    one that starts again takes the first that is free. None: state is kept in memory.
    Raises OSError where none can be made.
    """
    if settings.streams_state == "memory":
        yield None
        return
    home = settings.home or stack.default_home()
    base = settings.streams_directory or home / "streams"
    base.mkdir(parents=True, exist_ok=True)
    for number in range(_WORKERS):
        with (base / f"worker-{number}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield base / f"worker-{number}"
            return
    raise OSError(f"{_WORKERS} workers have a directory in {base} already")
