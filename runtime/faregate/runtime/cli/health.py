"""`faregate health`: what a container's health check runs beside one process.

The process itself ends when it is stuck or cannot go on (watchdog, loop), and is started again. So
this asks for what is left: is it at work with its servers?
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import asyncpg
import typer

from faregate.consumers.kafka import Cluster, make_admin, start
from faregate.runtime import processes, servers
from faregate.runtime.cli.base import JsonOption, Refused, examples, new_app, out, run_async, show
from faregate.runtime.settings import load

app = new_app("The health of one process.")

ProcessName = StrEnum("ProcessName", {name: name for name in processes.NAMES})  # type: ignore[misc]

_TIMEOUT_S = 5
# From the same address as this command: its own process, not one of the kind elsewhere.
_CONNECTED = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND application_name = $1
  AND client_addr IS NOT DISTINCT FROM
      (SELECT client_addr FROM pg_stat_activity WHERE pid = pg_backend_pid())
"""


@app.command(epilog=examples("faregate health relay", "faregate health deduction --json"))
def health(
    name: Annotated[
        ProcessName, typer.Argument(metavar="NAME", help="The process that runs here.")
    ],
    *,
    as_json: JsonOption = False,
) -> None:
    """Exit 0 if the process NAME of this machine is at work with PostgreSQL and Kafka.

    1: a server answers but does not know the process; 3: a server does not answer.
    """
    run_async(_health(str(name.value), as_json=as_json))


async def _health(name: str, *, as_json: bool) -> None:
    settings = load()
    found = servers.find(settings)
    sessions = await _sessions(found.database, name)
    if not sessions:
        message = f"no {name} of this machine is connected to PostgreSQL"
        raise Refused("not_connected", message, f"start it with: faregate run {name}")
    members = None
    if name in processes.CONSUMERS:
        members = await _members(settings.cluster(found.kafka), name)
        if not members:
            message = f"the consumer group of {name} has no member"
            raise Refused("no_member", message, f"look at the log of: faregate run {name}")
    value = {"process": name, "database_sessions": sessions, "group_members": members}
    show(value, as_json=as_json, render=lambda: out.print(f"{name} is at work"))


async def _sessions(database: str, name: str) -> int:
    """Count the connections of the process; as the user who logs in, who may see his own."""
    connection = await asyncpg.connect(
        database,
        timeout=_TIMEOUT_S,
        command_timeout=_TIMEOUT_S,
        server_settings={"application_name": "faregate health"},
    )
    try:
        return int(await connection.fetchval(_CONNECTED, f"faregate {name}"))
    finally:
        connection.terminate()


async def _members(cluster: Cluster, name: str) -> int:
    admin = make_admin(cluster, _TIMEOUT_S)
    await start(admin.start, cluster)
    try:
        answers = await admin.describe_consumer_groups([cluster.group(name)])
        return sum(len(group[_MEMBERS]) for answer in answers for group in answer.groups)
    finally:
        await admin.close()


_MEMBERS = 5
"""Where a DescribeGroups answer (any version) has its list of members."""
