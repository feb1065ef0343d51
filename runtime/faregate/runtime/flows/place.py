"""An installation for the length of a report: servers, every process, an admin; nothing is left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_urlsafe

import httpx

from faregate.gateway.byok.sealing import new_master_key
from faregate.runtime import stack
from faregate.runtime.demo.guard import guarded
from faregate.runtime.flows.target import Login, Target
from faregate.runtime.flows.upstream import Upstream, upstream
from faregate.runtime.flows.world import OwnKey
from faregate.runtime.servers import ServerMissing
from faregate.runtime.stack import StackInfo
from faregate.runtime.supervisor import die_with_parent

PREFIX = "FAREGATE_"
PROVIDER = "openrouter"
_STARTS_S, _ENDS_S = 60.0, 15.0
_POLL_S = 0.05
_TAIL = 2_000

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Installation:
    """What was started: servers that can be stopped, and the gateway's log."""

    info: StackInfo
    log_file: Path

    def stop_database(self) -> None:
        """Stop PostgreSQL."""
        stack.stop_postgres(self.info)

    def start_database(self) -> None:
        """Start it again, on the same data."""
        stack.start_postgres(self.info)

    def log(self) -> str:
        """Give what the gateway has logged."""
        return self.log_file.read_text(errors="replace")


@dataclass(frozen=True, slots=True)
class _Serving:
    """`faregate serve`, as a process of its own."""

    env: Mapping[str, str] = field(repr=False)
    log: Path
    process: subprocess.Popen[bytes]


@contextmanager
def installation(say: Say, outside: Upstream | None = None) -> Iterator[Target]:
    """Start Kafka, PostgreSQL and `faregate serve`; give the gateway with an admin.

    LLM calls go to `outside`, else to a small upstream of our own; users' own keys always to the
    latter. Raises StackError, ServerMissing. Call it from the main thread.
    """
    with (
        stack.running(kafka=False, database=False) as empty,
        guarded(empty.home),
        upstream() as ours,
    ):
        info = stack.up(empty.home, ephemeral=True, progress=say)
        env = _environment(info, ours, outside or ours)
        log = empty.home / "serve.log"
        with _serve(env, log) as serving:
            say("faregate serve: starting")
            url = _until_up(serving)
            login = _make_admin(env)
            say(f"faregate serve: ready at {url}")
            own_key = OwnKey(PROVIDER, ours.key or "")
            yield Target(url, login, None, info.database, Installation(info, log), own_key)


def _environment(info: StackInfo, ours: Upstream, platform: Upstream) -> dict[str, str]:
    """Give what the processes see: the product's defaults, on our servers."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    return {
        **kept,
        "FAREGATE_HOME": str(info.home),
        "FAREGATE_KAFKA": info.kafka,
        "FAREGATE_DATABASE": info.database,
        "FAREGATE_MASTER_KEY": new_master_key(),
        "FAREGATE_LLM_BASE_URL": platform.url,
        **({"FAREGATE_LLM_API_KEY": platform.key} if platform.key else {}),
        "FAREGATE_BYOK_OPENROUTER_BASE_URL": ours.url,
    }


@contextmanager
def _serve(env: Mapping[str, str], log: Path) -> Iterator[_Serving]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "faregate.runtime", "serve", "--port", "0", "--json"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(env),
            cwd=log.parent,
            start_new_session=True,
            preexec_fn=die_with_parent(),  # noqa: PLW1509
        )
    try:
        yield _Serving(env, log, process)
    finally:
        process.terminate()
        try:
            process.wait(_ENDS_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _until_up(serving: _Serving) -> str:
    """Wait until the gateway is ready, and give its address. Raises ServerMissing."""
    until = time.monotonic() + _STARTS_S
    while time.monotonic() < until and serving.process.poll() is None:
        port = _port(serving.log)
        if port is not None:
            url = f"http://127.0.0.1:{port}"
            if _is_ready(url):
                return url
        time.sleep(_POLL_S)
    end = serving.log.read_text(errors="replace")[-_TAIL:]
    raise ServerMissing(
        f"`faregate serve` did not start. The end of its log:\n{end}", "run: faregate doctor"
    )


def _port(log: Path) -> int | None:
    for line in log.read_text(errors="replace").splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict) and value.get("event") == "gateway_started":
            return int(value["port"])
    return None


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/ready", timeout=5, trust_env=False).is_success
    except httpx.HTTPError:
        return False


def _make_admin(env: Mapping[str, str]) -> Login:
    """Do what somebody does who has just installed it. Raises ServerMissing."""
    login = Login("root@example.com", token_urlsafe(24))
    words = ("users", "create", login.email, "--admin", "--password-stdin", "--json")
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "faregate.runtime", *words],
        input=f"{login.password}\n",
        env=dict(env),
        capture_output=True,
        check=False,
        text=True,
    )
    if done.returncode:
        raise ServerMissing(f"an admin cannot be made: {done.stderr}", "run: faregate doctor")
    return login
