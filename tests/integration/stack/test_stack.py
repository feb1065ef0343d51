import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from faregate.runtime import stack
from faregate.runtime.stack import processes, state

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]


@pytest.fixture
def lasting(tmp_path: Path) -> Iterator[Path]:
    """The home of a lasting stack, which is stopped and deleted at the end."""
    home = tmp_path / "private" / "home"
    home.mkdir(parents=True)
    yield home
    stack.down(home)
    shutil.rmtree(_postgres_data(home), ignore_errors=True)  # root's lies outside of the home


def _postgres_data(home: Path) -> Path:
    made = state.load(home)
    return Path((made and made.postgres.data) or home / "postgres")


async def _write(info: stack.StackInfo, topic: str, value: bytes) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=info.kafka)
    await admin.start()
    await admin.create_topics([NewTopic(topic, 1, 1)])
    await admin.close()
    producer = AIOKafkaProducer(
        bootstrap_servers=info.kafka,
        enable_idempotence=True,
        compression_type="gzip",
        max_request_size=4_000_000,
    )
    await producer.start()
    await producer.send_and_wait(topic, value)
    await producer.stop()
    database = await asyncpg.connect(info.database)
    await database.execute("CREATE TABLE IF NOT EXISTS kept (value text)")
    await database.execute("INSERT INTO kept VALUES ($1)", topic)
    await database.close()


async def _read(info: stack.StackInfo, topic: str) -> tuple[bytes, str]:
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=info.kafka,
        group_id=f"readers-{os.urandom(4).hex()}",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        max_partition_fetch_bytes=4_000_000,
    )
    await consumer.start()
    record = await asyncio.wait_for(consumer.getone(), 30)
    await consumer.commit()
    await consumer.stop()
    database = await asyncpg.connect(info.database)
    kept = await database.fetchval("SELECT value FROM kept WHERE value = $1", topic)
    await database.close()
    return record.value, kept


def _given(info: stack.StackInfo, topic: str = "kept", value: bytes = b"paid") -> None:
    asyncio.run(_write(info, topic, value))


def _still_there(info: stack.StackInfo, topic: str = "kept") -> bool:
    return asyncio.run(_read(info, topic)) == (b"paid", topic)


def _fetch(info: stack.StackInfo, query: str) -> str:
    async def ask() -> str:
        database = await asyncpg.connect(info.database)
        try:
            return str(await database.fetchval(query))
        finally:
            await database.close()

    return asyncio.run(ask())


def test_an_ephemeral_stack_works_and_leaves_nothing() -> None:
    lines: list[str] = []
    with stack.running(progress=lines.append, database_settings={"work_mem": "5MB"}) as info:
        _given(info)
        assert _still_there(info)
        assert _fetch(info, "SELECT 1") == "1"
        assert _fetch(info, "SHOW work_mem") == "5MB"
        assert _fetch(info, "SHOW synchronous_commit") == "on"
        assert _fetch(info, "SHOW server_version_num") >= "180000"
        pids, data = (info.kafka_pid, info.postgres_pid), info.logs["kafka"].parent
        assert any(line.startswith("Kafka: ready") for line in lines)
    assert all(pid and not Path(f"/proc/{pid}").exists() for pid in pids)
    assert not data.exists()
    assert not info.home.exists()


def test_a_record_of_a_mebibyte_and_its_headers_fits() -> None:
    with stack.running() as info:
        asyncio.run(_write(info, "large", os.urandom(1_048_576 + 128 * 1024)))
        assert len(asyncio.run(_read(info, "large"))[0]) == 1_048_576 + 128 * 1024


def test_the_password_is_asked_for() -> None:
    with stack.running(kafka=False) as info:
        assert info.kafka == ""
        wrong = info.database.replace("faregate:", "faregate:x", 1)
        with pytest.raises(asyncpg.InvalidPasswordError):
            asyncio.run(asyncpg.connect(wrong))


def test_data_survives_a_crash_of_both_servers(tmp_path: Path) -> None:
    home = tmp_path / "home"
    info = stack.up(home, ephemeral=True)
    try:
        _given(info)
        again = stack.up(home, ephemeral=True)
        assert (again.kafka_pid, again.postgres_pid) == (info.kafka_pid, info.postgres_pid)
        for pid in (info.kafka_pid, info.postgres_pid):
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
        assert processes.wait_until(lambda: not _any_alive(home), 10)
        after = stack.up(home, ephemeral=True)
        assert after.kafka_pid != info.kafka_pid
        assert _still_there(after)
    finally:
        stack.down(home)
    assert stack.status(home) is None


def _any_alive(home: Path) -> bool:
    info = stack.status(home)
    return info is not None and (info.kafka_alive or info.postgres_alive)


def test_data_survives_restarts_at_the_same_addresses(tmp_path: Path) -> None:
    info = stack.up(tmp_path, ephemeral=True)
    try:
        _given(info)
        after = stack.restart_kafka(info)
        after = stack.restart_postgres(after, "fast")
        after = stack.restart_postgres(after, "immediate")
        assert (after.kafka, after.database) == (info.kafka, info.database)
        assert _still_there(after)
        stack.stop_kafka(info)
        stack.stop_postgres(info)
        assert stack.status(tmp_path) is None
        stack.start_kafka(info)
        assert _still_there(stack.start_postgres(info))
    finally:
        stack.down(tmp_path)


def test_a_lasting_stack_keeps_its_data_and_moves_when_its_ports_are_taken(lasting: Path) -> None:
    info = stack.up(lasting)
    _given(info)
    assert stack.down(lasting)
    kept = state.load(lasting)
    assert kept is not None
    with (
        socket.create_server((processes.HOST, kept.kafka.port or 0)),
        socket.create_server((processes.HOST, kept.postgres.port or 0)),
    ):
        after = stack.up(lasting)
    assert after.kafka != info.kafka
    assert after.database != info.database
    assert _still_there(after)
    stack.down(lasting)
    assert (lasting / "kafka").exists()


def test_two_processes_get_the_same_stack(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib; from faregate.runtime import stack;"
        "i = stack.up(pathlib.Path(sys.argv[1]), ephemeral=True);"
        "print(i.kafka, i.database, i.kafka_pid, i.postgres_pid)"
    )

    def run() -> str:
        command = [sys.executable, "-W", "error", "-c", program, str(tmp_path)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    try:
        with ThreadPoolExecutor(2) as pool:
            first, second = pool.submit(run), pool.submit(run)
            assert first.result() == second.result() != ""
        assert _any_alive(tmp_path), "it outlives the processes that started it"
    finally:
        stack.down(tmp_path)


def test_a_server_that_the_state_forgot_is_taken_over(tmp_path: Path) -> None:
    info = stack.up(tmp_path, ephemeral=True, kafka=False)
    try:
        left = state.load(tmp_path)
        assert left is not None
        left.postgres.pid = left.postgres.started = None
        left.save()
        assert stack.up(tmp_path, ephemeral=True, kafka=False).postgres_pid == info.postgres_pid
    finally:
        stack.down(tmp_path)


def test_the_stack_of_a_killed_process_is_swept_by_the_next_one() -> None:
    program = (
        "from faregate.runtime import stack; import os, signal\n"
        "with stack.running(kafka=False) as i:\n"
        "    print(i.home, i.postgres_pid, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    command = [sys.executable, "-c", program]
    killed = subprocess.run(command, check=False, capture_output=True, text=True)
    home, pid = killed.stdout.split()
    assert processes.identity(int(pid))
    with stack.running(kafka=False):
        assert processes.identity(int(pid)) is None
        assert not Path(home).exists()


def test_data_whose_state_file_was_lost_gets_a_new_password(lasting: Path) -> None:
    before = stack.up(lasting, kafka=False)
    data = _postgres_data(lasting)
    stack.down(lasting)
    (lasting / state.STATE_FILE).unlink()
    renewed = state.create(lasting, ephemeral=False)
    renewed.postgres.data = str(data)
    renewed.save()
    after = stack.up(lasting, kafka=False)
    assert _fetch(after, "SELECT 1") == "1"
    assert after.database.split("@")[0] != before.database.split("@")[0]


@pytest.mark.skipif(os.geteuid() != 0, reason="the server can reach its owner's directories")
def test_a_private_home_of_root_works_and_stays_private(lasting: Path) -> None:
    lasting.parent.chmod(0o700)
    info = stack.up(lasting, kafka=False)
    assert _fetch(info, "SELECT 1") == "1"
    assert not _postgres_data(lasting).is_relative_to(lasting)
    assert (lasting.parent.stat().st_mode & 0o777) == 0o700
