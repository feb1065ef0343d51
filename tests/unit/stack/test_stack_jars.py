import builtins
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from faregate.runtime.stack import jars
from faregate.runtime.stack.errors import StackError

CONTENT = b"a jar"
DIGEST = hashlib.sha256(CONTENT).hexdigest()
NAMES = ("org.example:one:1.0", "org.example:two:2.0")


class FakeMaven:
    """Stands in for the resolver's context: `resolve` does what the test says."""

    def __init__(self, resolve: Callable[[Path], None]) -> None:
        self._resolve = resolve
        self.repo_cache = Path()
        self.asked: list[str] = []

    def project(self, group: str, artifact: str) -> "FakeMaven":
        self._name = f"{group}:{artifact}"
        return self

    def at_version(self, version: str) -> "FakeMaven":
        self._name += f":{version}"
        return self

    def artifact(self, *_classifier: str) -> "FakeArtifact":
        return FakeArtifact(self, self._name)


class FakeArtifact:
    def __init__(self, maven: FakeMaven, name: str) -> None:
        self._maven, self._name = maven, name
        self.cached_path = maven.repo_cache / name.replace(":", "-")

    def resolve(self) -> Path:
        self._maven.asked.append(self._name)
        self._maven._resolve(self.cached_path)
        return self.cached_path


@pytest.fixture
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(jars, "RETRY_S", 0.0)
    monkeypatch.setattr(jars, "PARALLEL_DOWNLOADS", 1)
    path = tmp_path / "kafka.lock"
    path.write_text(json.dumps({"jars": dict.fromkeys(NAMES, DIGEST)}))
    return path


def use(monkeypatch: pytest.MonkeyPatch, maven: FakeMaven, local: Path = Path("/absent")) -> None:
    monkeypatch.setattr(jars, "_maven", lambda: (maven, local))


def write(content: bytes) -> Callable[[Path], None]:
    def write_content(path: Path) -> None:
        path.write_bytes(content)

    return write_content


def offline(_path: Path) -> None:
    raise ConnectionError("network is unreachable")


def test_jars_are_fetched_once_with_progress(lock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    maven, lines = FakeMaven(write(CONTENT)), list[str]()
    use(monkeypatch, maven)
    target = jars.ensure(lines.append, lock)
    assert {path.name for path in target.glob("*.jar")} == {"one-1.0.jar", "two-2.0.jar"}
    assert lines == [f"Kafka: {done} of 2 jars" for done in (0, 2)]
    assert jars.ensure(lines.append, lock) == target
    assert sorted(maven.asked) == list(NAMES)
    assert not list(target.glob(".staging-*"))


def test_a_download_with_another_checksum_is_refused_and_removed(
    lock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, FakeMaven(write(b"something else")))
    with pytest.raises(StackError, match="Checksum mismatch") as caught:
        jars.ensure(lambda _: None, lock)
    assert DIGEST in caught.value.message
    assert not list((lock.parent / "cache").rglob("*.jar"))


def test_a_cached_jar_that_was_altered_is_removed_and_fetched_anew(
    lock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, FakeMaven(write(CONTENT)))
    target = jars.ensure(lambda _: None, lock)
    (target / "one-1.0.jar").write_bytes(b"planted")
    with pytest.raises(StackError, match=r"one-1\.0\.jar .* removed"):
        jars.ensure(lambda _: None, lock)
    assert not (target / "one-1.0.jar").exists()
    assert jars.ensure(lambda _: None, lock) == target


def test_without_network_the_error_says_what_to_do(
    lock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maven = FakeMaven(offline)
    use(monkeypatch, maven)
    with pytest.raises(StackError) as caught:
        jars.ensure(lambda _: None, lock)
    assert "org.example:one:1.0 could not be downloaded" in caught.value.message
    assert "unreachable" in caught.value.message
    for word in ("FAREGATE_KAFKA", "FAREGATE_DATABASE", str(lock.parent / "cache")):
        assert word in caught.value.fix
    assert maven.asked.count(NAMES[0]) == jars.DOWNLOAD_ATTEMPTS


def test_a_download_that_fails_once_is_tried_again(
    lock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Path] = []

    def flaky(path: Path) -> None:
        calls.append(path)
        path.write_bytes(b"half" if len(calls) == 1 else CONTENT)
        if len(calls) == 1:
            raise ConnectionError("reset by peer")

    use(monkeypatch, FakeMaven(flaky))
    assert len(list(jars.ensure(lambda _: None, lock).glob("*.jar"))) == 2


def test_the_users_own_maven_cache_is_used_when_its_copy_is_the_locked_one(
    lock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in NAMES:
        path = tmp_path / "m2" / jars.Jar(name, DIGEST).maven_path
        path.parent.mkdir(parents=True)
        path.write_bytes(CONTENT)
    use(monkeypatch, FakeMaven(offline), tmp_path / "m2")
    assert len(list(jars.ensure(lambda _: None, lock).glob("*.jar"))) == 2


def test_without_the_extra_the_error_names_it(lock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_jgo(name: str, *rest: Any) -> Any:
        if name.startswith("jgo"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_jgo)
    with pytest.raises(StackError) as caught:
        jars.ensure(lambda _: None, lock)
    assert "pip install 'faregate[stack]'" in caught.value.fix


def test_the_committed_lock_has_the_broker_and_every_codec() -> None:
    names = {jar.filename for jar in jars.read_lock()}
    assert f"kafka_2.13-{jars.KAFKA_VERSION}.jar" in names
    for part in ("zstd-jni", "lz4-java", "snappy-java", "log4j-slf4j-impl"):
        assert any(name.startswith(part) for name in names), part


def test_a_damaged_lock_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "kafka.lock").write_text("{}")
    with pytest.raises(StackError, match="cannot be read"):
        jars.read_lock(tmp_path / "kafka.lock")
