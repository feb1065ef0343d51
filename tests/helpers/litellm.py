"""A real LiteLLM proxy for tests: installed once into the user's cache, started on a free port.

Its packages would fight with ours, so it has an environment of its own. While it runs it cannot
reach any network: proxies that lead nowhere are set, and its models have mock answers.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml
from tests.tidy.repository import ROOT

from faregate.runtime.stack.state import cache_dir

VERSION = "1.106.*"
_STARTS_S = 180
_ENDS_S = 15
_NOWHERE = "http://127.0.0.1:9"


@dataclass(frozen=True, slots=True)
class LiteLLM:
    """A running proxy."""

    url: str
    key: str
    log: Path
    process: subprocess.Popen[bytes]

    def wait(self) -> None:
        """Wait until it answers."""
        _until_up(self.process, self.url, self.log)


def installed() -> Path:
    """Give the environment with LiteLLM; whoever comes first makes it, the others wait."""
    name = f"litellm-{VERSION.removesuffix('.*')}-py{sys.version_info[0]}{sys.version_info[1]}"
    target = cache_dir() / name
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_name(f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (target / "complete").exists():
            shutil.rmtree(target, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", "--without-pip", target], check=True)
            _install(target / "bin" / "python", f"litellm[proxy]=={VERSION}")
            (target / "complete").touch()
    return target


def _install(python: Path, package: str) -> None:
    uv = ROOT / ".uv" / "bin" / "uv"
    if not uv.exists():
        found = shutil.which("uv")
        assert found, "no uv to install LiteLLM with: run `make setup`"
        uv = Path(found)
    subprocess.run([uv, "pip", "install", "--quiet", "--python", python, package], check=True)


@contextmanager
def litellm(models: dict[str, dict[str, Any]], *, wait: bool = True) -> Iterator[LiteLLM]:
    """Run a proxy with these models: name to `litellm_params`; they need no key of a provider.

    Without `wait` it may still be starting: call `wait` on what is given.
    """
    home = installed()
    key, port = f"sk-{secrets.token_hex(24)}", _free_port()
    with tempfile.TemporaryDirectory(prefix="faregate-litellm-") as folder:
        config = Path(folder, "config.yaml")
        config.write_text(yaml.safe_dump(_config(models)))
        log = Path(folder, "log")
        with log.open("w") as output:
            program = str(home / "bin" / "litellm")
            process = subprocess.Popen(
                [program, "--config", str(config), "--host", "127.0.0.1", "--port", str(port)],
                env=_environment(folder, key),
                cwd=folder,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            running = LiteLLM(f"http://127.0.0.1:{port}", key, log, process)
            if wait:
                running.wait()
            yield running
        finally:
            process.terminate()
            try:
                process.wait(_ENDS_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _config(models: dict[str, dict[str, Any]]) -> dict[str, Any]:
    listed = [
        {
            "model_name": name,
            "litellm_params": {"model": f"openai/{name}", "api_key": "none", **params},
        }
        for name, params in models.items()
    ]
    return {
        "model_list": listed,
        "general_settings": {"master_key": "os.environ/LITELLM_MASTER_KEY"},
        "litellm_settings": {"telemetry": False, "num_retries": 0},
        "router_settings": {"num_retries": 0, "disable_cooldowns": True},
    }


def _environment(folder: str, key: str) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "HOME": folder,
        "LITELLM_MASTER_KEY": key,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "HTTP_PROXY": _NOWHERE,
        "HTTPS_PROXY": _NOWHERE,
        "NO_PROXY": "127.0.0.1",
    }


def _until_up(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    until = time.monotonic() + _STARTS_S
    while time.monotonic() < until and process.poll() is None:
        try:
            if httpx.get(f"{url}/health/liveliness", timeout=5, trust_env=False).is_success:
                return
        except httpx.HTTPError:
            time.sleep(0.3)
    raise AssertionError(f"LiteLLM did not start:\n{log.read_text()[-3000:]}")


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
