import json
import stat
from pathlib import Path

import pytest

from faregate.runtime.stack import control, state
from faregate.runtime.stack.errors import StackError


def test_the_state_is_private_and_survives_a_round_trip(tmp_path: Path) -> None:
    made = state.create(tmp_path / "home", ephemeral=False)
    made.postgres.password, made.postgres.port = "secret", 15_432
    made.kafka.settings = {"log.retention.ms": "1"}
    made.save()
    assert stat.S_IMODE((tmp_path / "home" / state.STATE_FILE).stat().st_mode) == 0o600
    assert state.load(tmp_path / "home") == made
    assert made.postgres.url == "postgresql://faregate:secret@127.0.0.1:15432/faregate"


def test_fields_of_a_newer_version_are_ignored(tmp_path: Path) -> None:
    made = state.create(tmp_path, ephemeral=False)
    content = json.loads((tmp_path / state.STATE_FILE).read_text())
    content["kafka"]["later"] = 1
    (tmp_path / state.STATE_FILE).write_text(json.dumps(content))
    assert state.load(tmp_path) == made


def test_a_damaged_state_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / state.STATE_FILE).write_text('{"kafka": ')
    with pytest.raises(StackError, match="cannot be read") as caught:
        state.load(tmp_path)
    assert str(tmp_path / state.STATE_FILE) in caught.value.fix


def test_an_ephemeral_stack_is_found_by_its_pointer_and_leaves_the_lasting_one_alone(
    tmp_path: Path,
) -> None:
    lasting = state.create(tmp_path, ephemeral=False)
    lasting.postgres.password = "lasting"
    lasting.save()
    ephemeral = state.create(tmp_path, ephemeral=True)
    assert ephemeral.data != tmp_path
    assert state.load(tmp_path) == ephemeral
    assert control.down(tmp_path)
    assert not ephemeral.data.exists()
    assert state.load(tmp_path) == lasting


def test_a_pointer_to_a_directory_that_is_gone_counts_as_none(tmp_path: Path) -> None:
    state.write_private(tmp_path / state.POINTER_FILE, {"data": str(tmp_path / "gone")})
    assert state.load(tmp_path) is None
    assert control.status(tmp_path) is None


def test_status_of_a_stack_whose_pid_went_to_a_foreign_process(tmp_path: Path) -> None:
    made = state.create(tmp_path, ephemeral=False)
    made.kafka.pid, made.kafka.started, made.kafka.port = 1, "another-boot:7", 19_092
    made.save()
    info = control.status(tmp_path)
    assert info is not None
    assert info.kafka == "127.0.0.1:19092"
    assert not info.kafka_alive
    assert control.down(tmp_path), "pid 1 is not touched"
    assert control.status(tmp_path) is None


def test_down_where_nothing_ever_ran(tmp_path: Path) -> None:
    assert control.down(tmp_path / "absent") is False
    assert not (tmp_path / "absent").exists()


def test_where_the_home_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.delenv("FAREGATE_HOME", raising=False)
    assert state.default_home() == tmp_path / "data" / "faregate"
    (tmp_path / "Makefile").touch()
    assert state.default_home() == tmp_path / ".faregate"
    monkeypatch.setenv("FAREGATE_HOME", str(tmp_path / "chosen"))
    assert state.default_home() == tmp_path / "chosen"


def test_a_killed_owners_stack_is_swept_and_a_living_ones_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    dead, living = (tmp_path / f"{state.EPHEMERAL_HOME_PREFIX}{n}" for n in ("dead", "living"))
    left = state.create(dead, ephemeral=True, owned=True)
    left.owner_started = "another-boot:7"
    left.save()
    kept = state.create(living, ephemeral=True, owned=True)
    control._sweep()
    assert not dead.exists()
    assert not left.data.exists()
    assert kept.data.exists()
