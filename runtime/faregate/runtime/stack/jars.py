"""The jars of Apache Kafka: a committed list with checksums, fetched once per user.

`kafka.lock` beside this module names every jar with its SHA-256. At use nothing is resolved: what
the list says is fetched, and each file is checked each time before it is run. To move to another
version, change ENDPOINTS and run `python -m faregate.runtime.stack.jars --relock`.
"""

import argparse
import concurrent.futures
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faregate.runtime.stack import state
from faregate.runtime.stack.errors import OWN_SERVERS, StackError, missing_extra
from faregate.runtime.stack.processes import exclusive

KAFKA_VERSION = "4.1.0"
# Resolved one after the other, because the second one's version rules must not bend the first's.
# The broker's own list has log4j, but not the bridge from slf4j to it; without it Kafka is silent.
ENDPOINTS = (
    f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}",
    "org.apache.logging.log4j:log4j-slf4j-impl:2.24.3",
)
LOCK_FILE = Path(__file__).with_name("kafka.lock")
_SAY_EVERY = 10
PARALLEL_DOWNLOADS = 8
DOWNLOAD_ATTEMPTS = 3
RETRY_S = 1.0

Progress = Callable[[str], None]


@dataclass(frozen=True, order=True)
class Jar:
    """One artifact (`group:artifact:version[:classifier]`) and its SHA-256 in hex."""

    coordinate: str
    sha256: str

    @property
    def filename(self) -> str:
        """The file's name, as Maven forms it."""
        _, *rest = self.coordinate.split(":")
        return "-".join(rest) + ".jar"

    @property
    def maven_path(self) -> str:
        """The file's path inside a Maven repository or its local cache."""
        group, artifact, version, *_ = self.coordinate.split(":")
        return f"{group.replace('.', '/')}/{artifact}/{version}/{self.filename}"


def read_lock(lock: Path = LOCK_FILE) -> list[Jar]:
    """Return the locked jars. Raises StackError when the file is missing or damaged."""
    try:
        content = json.loads(lock.read_text(encoding="utf-8"))
        return [Jar(name, digest) for name, digest in content["jars"].items()]
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise StackError(
            f"The list of Kafka's jars, {lock}, cannot be read: {error!r}.",
            "Reinstall: pip install --force-reinstall 'faregate[stack]'.",
        ) from error


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def jars_dir(jars: Sequence[Jar]) -> Path:
    """Return the directory for exactly this set of jars, so that versions never mix."""
    key = hashlib.sha256("\n".join(f"{j.coordinate} {j.sha256}" for j in jars).encode())
    return state.cache_dir() / f"kafka-{KAFKA_VERSION}-{key.hexdigest()[:12]}"


def ensure(
    progress: Progress, lock: Path = LOCK_FILE, cancelled: Callable[[], bool] = lambda: False
) -> Path:
    """Return the directory with every locked jar, each verified; fetch those that are missing.

    Several processes may call this at once: the first fetches, the others wait.
    Raises StackError when a jar cannot be fetched or is not the locked one (it is removed then).
    """
    jars = read_lock(lock)
    target = jars_dir(jars)
    with exclusive(
        target.with_name(target.name + ".lock"),
        waiting=lambda: progress("Kafka: waiting for another process that fetches the jars"),
    ):
        target.mkdir(parents=True, exist_ok=True)
        missing = [jar for jar in jars if not (target / jar.filename).exists()]
        if missing:
            _fetch_all(missing, len(jars), target, progress, cancelled)
        _verify(jars, target)
    return target


def _verify(jars: Sequence[Jar], target: Path) -> None:
    with concurrent.futures.ThreadPoolExecutor(PARALLEL_DOWNLOADS) as pool:
        found = list(pool.map(lambda jar: sha256_of(target / jar.filename), jars))
    wrong = [jar for jar, digest in zip(jars, found, strict=True) if digest != jar.sha256]
    for jar in wrong:
        (target / jar.filename).unlink(missing_ok=True)
    if wrong:
        names = ", ".join(jar.filename for jar in wrong)
        raise StackError(
            f"Checksum mismatch: {names} in {target} differs from the locked one; it was removed.",
            "Try again to fetch it anew; if it happens again, something between you and the "
            "repository alters downloads.",
        )


def _fetch_all(
    missing: Sequence[Jar],
    total: int,
    target: Path,
    progress: Progress,
    cancelled: Callable[[], bool],
) -> None:
    """Fetch into a staging directory, check, and move each jar into place in one step."""
    try:
        context, local = _maven()
    except ImportError as error:
        raise missing_extra("jgo") from error
    done = total - len(missing)
    progress(f"Kafka: {done} of {total} jars")
    with tempfile.TemporaryDirectory(dir=target, prefix=".staging-") as staging:
        context.repo_cache = Path(staging)
        with concurrent.futures.ThreadPoolExecutor(PARALLEL_DOWNLOADS) as pool:
            pending = [
                pool.submit(_fetch, jar, context, local / jar.maven_path, target) for jar in missing
            ]
            try:
                for future in concurrent.futures.as_completed(pending):
                    future.result()
                    done += 1
                    if done % _SAY_EVERY == 0 or done == total:
                        progress(f"Kafka: {done} of {total} jars")
                    _give_up_if(cancelled())
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise


def _give_up_if(wanted: bool) -> None:
    if wanted:
        raise StackError("Fetching Kafka was given up.", "Try again.")


def _fetch(jar: Jar, context: Any, local: Path, target: Path) -> None:
    if local.is_file() and sha256_of(local) == jar.sha256:
        staged = context.repo_cache / jar.filename
        shutil.copyfile(local, staged)  # already in the user's own Maven cache
    else:
        staged = _download(jar, context, target)
    staged.replace(target / jar.filename)


def _download(jar: Jar, context: Any, target: Path) -> Path:
    """Return the path of a download with the locked checksum; a failure is tried again."""
    group, artifact, version, *classifier = jar.coordinate.split(":")
    wanted = context.project(group, artifact).at_version(version).artifact(*classifier)
    problem: str = ""
    for attempt in range(DOWNLOAD_ATTEMPTS):
        time.sleep(attempt * RETRY_S)
        try:
            staged = Path(wanted.resolve())
            digest = sha256_of(staged)
        except (OSError, RuntimeError) as error:  # requests' exceptions are OSErrors
            problem = f"{jar.coordinate} could not be downloaded: {type(error).__name__}: {error}."
        else:
            if digest == jar.sha256:
                return staged
            problem = (
                f"Checksum mismatch: the download of {jar.coordinate} has SHA-256 {digest}, "
                f"locked is {jar.sha256}; it was removed."
            )
        Path(wanted.cached_path).unlink(missing_ok=True)  # it may be there in part
    raise StackError(
        problem,
        f"Check the network (a proxy, a repository mirror) and try again: what was fetched stays "
        f"in {target}; {OWN_SERVERS}.",
    )


def _maven() -> tuple[Any, Path]:
    """Return (a Maven context, the user's own Maven cache), as the resolver is configured.

    Repositories of the user's configuration are asked before the resolver's default one.
    """
    from jgo.config import GlobalSettings
    from jgo.maven import MavenContext

    settings = GlobalSettings.load()
    context = MavenContext(timeout=30)
    context.remote_repos = {**settings.repositories, **context.remote_repos}
    context.remote_repos.update(settings.repositories)
    return context, Path(settings.repo_cache)


def relock(lock: Path = LOCK_FILE) -> int:
    """Resolve ENDPOINTS anew and write the lock file. Returns the number of jars."""
    import jgo

    chosen: dict[tuple[str, str, str], Any] = {}
    for item in (item for endpoint in ENDPOINTS for item in jgo.resolve(endpoint)):
        chosen.setdefault((item.groupId, item.artifactId, item.classifier), item)
    names = {}
    for item in chosen.values():
        parts = [item.groupId, item.artifactId, item.version, item.classifier]
        names[":".join(part for part in parts if part)] = sha256_of(Path(item.resolve()))
    content = {"endpoints": ENDPOINTS, "jars": dict(sorted(names.items()))}
    handle, name = tempfile.mkstemp(dir=lock.parent)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(json.dumps(content, indent=1) + "\n")
    Path(name).chmod(0o644)
    Path(name).replace(lock)
    return len(names)


def _to_stderr(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def main() -> None:
    """Maintain the jars from the command line."""
    parser = argparse.ArgumentParser(description="Fetch and check the jars of Apache Kafka.")
    parser.add_argument("--relock", action="store_true", help="resolve anew, write kafka.lock")
    if parser.parse_args().relock:
        _to_stderr(f"{relock()} jars locked in {LOCK_FILE}")
    sys.stdout.write(f"{ensure(_to_stderr)}\n")


if __name__ == "__main__":
    main()
