"""A real Keycloak for tests: fetched once into the user's cache, started on free ports of 127.0.0.1.

It comes from the Maven registry as Kafka's jars do, by the resolver's own configuration, with its
checksum pinned; it runs on the JRE of the `stack` extra, with its database in memory and its files
in a temporary folder. Keycloak posts no events by itself, so a published extension for it is put
beside: keycloak-events (Elastic License 2.0: used here as a program, nothing of it is shipped).
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from faregate.runtime.stack import jars
from faregate.runtime.stack.kafka import java
from faregate.runtime.stack.processes import exclusive
from faregate.runtime.stack.state import cache_dir

REALM = "faregate"
SERVER = (
    "org.keycloak:keycloak-quarkus-dist:26.4.7",
    "zip",
    "dd9834c023460be856f731423d86228c23b5d002194a2064642bec0cc6573eaa",
)
EXTENSION = (
    "io.phasetwo.keycloak:keycloak-events:0.50",
    "jar",
    "3d930b7868018ffb854a3424b97915a014c08f959dbb718af33b2249ef639e22",
)
_STARTS_S = 240
_ENDS_S = 20
_ADMIN = "root"


def fetched(coordinate: str, packaging: str, sha256: str) -> Path:
    """Give an artifact of the Maven registry with this checksum; whoever comes first fetches it."""
    group, artifact, version = coordinate.split(":")
    target = cache_dir() / f"{artifact}-{version}.{packaging}"
    with exclusive(target.with_name(f"{target.name}.lock")):
        if not target.exists():
            context, _ = jars._maven()
            with tempfile.TemporaryDirectory(dir=target.parent) as staging:
                context.repo_cache = Path(staging)
                wanted = context.project(group, artifact).at_version(version)
                found = Path(wanted.artifact(packaging=packaging).resolve())
                assert jars.sha256_of(found) == sha256, f"{coordinate}: {jars.sha256_of(found)}"
                found.replace(target)
        assert jars.sha256_of(target) == sha256, f"{target} is not the one that was fetched"
    return target


@dataclass(slots=True)
class Keycloak:
    """A running Keycloak with one realm of ours."""

    url: str
    password: str
    log: Path
    http: httpx.Client
    _token: str = ""
    _until: float = field(default=0.0)

    @property
    def issuer(self) -> str:
        return f"{self.url}/realms/{REALM}"

    def tokens(self, realm: str = REALM, **fields: str) -> dict[str, Any]:
        """Sign in with a password (direct grant); gives what the token endpoint answers."""
        place = f"{self.url}/realms/{realm}/protocol/openid-connect/token"
        answer = self.http.post(place, data={"grant_type": "password", **fields})
        assert answer.is_success, answer.text
        return dict(answer.json())

    def root(self) -> str:
        """Give a token of the administrator of the whole server."""
        if time.monotonic() >= self._until:
            named = {"client_id": "admin-cli", "username": _ADMIN, "password": self.password}
            self._token = self.tokens("master", **named)["access_token"]
            self._until = time.monotonic() + 30
        return self._token

    def admin(self, method: str, path: str, body: Any = None, **more: Any) -> httpx.Response:
        """Call the administration of our realm: `admin("GET", "/users")`."""
        return self.call(method, f"/admin/realms/{REALM}{path}", body, **more)

    def call(self, method: str, path: str, body: Any = None, **more: Any) -> httpx.Response:
        """Call as the administrator."""
        signed = {"Authorization": f"Bearer {self.root()}"}
        answer = self.http.request(method, self.url + path, json=body, headers=signed, **more)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer

    def add_user(self, username: str, password: str, **more: Any) -> str:
        """Make a user, as an admin does in the console; gives the id."""
        names = {"firstName": username.title(), "lastName": "Test", "enabled": True}
        credential = {"type": "password", "value": password, "temporary": False}
        whole = {"username": username, **names, "credentials": [credential], **more}
        return self.admin("POST", "/users", whole).headers["location"].rpartition("/")[2]


@contextmanager
def keycloak(realm: Path) -> Iterator[Keycloak]:
    """Run a Keycloak that has imported a realm from a file."""
    server, extension = fetched(*SERVER), fetched(*EXTENSION)
    port, management, password = _free_port(), _free_port(), secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="faregate-keycloak-") as folder:
        home = _unpacked(server, Path(folder))
        shutil.copy(extension, home / "providers")
        (home / "data" / "import").mkdir(parents=True)
        shutil.copy(realm, home / "data" / "import")
        log = Path(folder, "log")
        with log.open("w") as output:
            process = subprocess.Popen(
                [
                    "bash",
                    str(home / "bin" / "kc.sh"),
                    "start-dev",
                    "--import-realm",
                    "--db=dev-mem",
                    "--http-enabled=true",
                    "--http-host=127.0.0.1",
                    f"--http-port={port}",
                    f"--http-management-port={management}",
                    f"--hostname=http://127.0.0.1:{port}",
                ],
                env=_environment(folder, password),
                cwd=folder,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        url = f"http://127.0.0.1:{port}"
        try:
            with httpx.Client(timeout=30, trust_env=False) as http:
                _until_up(process, f"{url}/realms/{REALM}", http, log)
                yield Keycloak(url, password, log, http)
        finally:
            _end(process)


def _unpacked(server: Path, folder: Path) -> Path:
    with zipfile.ZipFile(server) as archive:
        archive.extractall(folder)
    (home,) = (path for path in folder.iterdir() if path.is_dir())
    return home


def _environment(folder: str, password: str) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "HOME": folder,
        "JAVA_HOME": str(java().parent.parent),
        "JAVA_OPTS_KC_HEAP": "-Xms64m -Xmx512m",
        "KC_BOOTSTRAP_ADMIN_USERNAME": _ADMIN,
        "KC_BOOTSTRAP_ADMIN_PASSWORD": password,
    }


def _until_up(process: subprocess.Popen[bytes], place: str, http: httpx.Client, log: Path) -> None:
    until = time.monotonic() + _STARTS_S
    while time.monotonic() < until and process.poll() is None:
        try:
            if http.get(place).is_success:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.3)
    raise AssertionError(f"Keycloak did not start:\n{log.read_text()[-5000:]}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the session that was started for it: a shell, and Java in it."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
            process.wait(_ENDS_S)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
