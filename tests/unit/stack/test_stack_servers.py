import os
import socket
import threading
from pathlib import Path

import pytest

from faregate.runtime.stack import control, jars, kafka, postgres, postgres_files, state
from faregate.runtime.stack.errors import StackError
from faregate.runtime.stack.processes import HOST, Account, identity

NOBODY = Account("nobody", 65_534, 65_534)


@pytest.fixture
def stack(tmp_path: Path) -> state.State:
    return state.create(tmp_path / "home", ephemeral=False)


def test_a_new_log_directory_is_formatted(stack: state.State) -> None:
    kafka.format_directory(stack, lambda: b"bootstrap")
    meta = kafka.read_meta(stack.data / "kafka")
    assert meta["cluster.id"] == stack.kafka.cluster_id
    assert (stack.data / "kafka" / kafka.BOOTSTRAP).read_bytes() == b"bootstrap"
    assert len(kafka.new_id()) == 22


@pytest.mark.parametrize("half", ["", "version=1\ncluster.id=abc\n", "#\n"])
def test_a_half_formatted_log_directory_is_done_again_and_keeps_its_ids_and_records(
    stack: state.State, half: str
) -> None:
    kafka.format_directory(stack, lambda: b"bootstrap")
    before = kafka.read_meta(stack.data / "kafka")
    (stack.data / "kafka" / "records.log").write_bytes(b"records")
    (stack.data / "kafka" / kafka.META).write_text(half)
    kafka.format_directory(stack, lambda: b"bootstrap")
    assert kafka.read_meta(stack.data / "kafka") == before
    assert (stack.data / "kafka" / "records.log").read_bytes() == b"records"


def test_what_is_on_disk_wins_over_the_state(stack: state.State) -> None:
    kafka.format_directory(stack, lambda: b"bootstrap")
    on_disk, stack.kafka.cluster_id = stack.kafka.cluster_id, "forgotten"
    kafka.format_directory(stack, lambda: pytest.fail("it is formatted already"))
    assert stack.kafka.cluster_id == on_disk


def test_extra_settings_win_but_not_over_the_addresses(tmp_path: Path) -> None:
    extra = {"message.max.bytes": "7", "listeners": "PLAINTEXT://0.0.0.0:1"}
    values = kafka.settings_for(tmp_path, 15_001, 15_002, extra)
    assert values["message.max.bytes"] == "7"
    assert values["listeners"] == f"PLAINTEXT://{HOST}:15001,CONTROLLER://{HOST}:15002"
    assert "0.0.0.0" not in kafka.properties(values)


def test_a_stall_shuts_no_broker_out_and_one_that_was_killed_is_soon_back(tmp_path: Path) -> None:
    def session_s() -> float:
        values = kafka.settings_for(tmp_path, 15_001, 15_002, {})
        return int(values["broker.session.timeout.ms"]) / 1000

    assert session_s() == 60
    (tmp_path / "__cluster_metadata-0").mkdir()
    assert session_s() == 3, "it ran, and was not shut down"
    (tmp_path / ".kafka_cleanshutdown").touch()
    assert session_s() == 60


def test_somebody_else_at_our_port_is_not_taken_for_our_broker(stack: state.State) -> None:
    stack.kafka.cluster_id = kafka.new_id()
    with socket.create_server((HOST, 0)) as other:
        stack.kafka.port = other.getsockname()[1]
        other.settimeout(5)

        def answer() -> None:
            peer, _ = other.accept()
            with peer:
                peer.recv(1000)
                peer.sendall(b"\x00\x00\x00\x16" + b"x" * 22)

        thread = threading.Thread(target=answer)
        thread.start()
        assert not kafka.is_ready(stack)
        thread.join()


def test_a_taken_port_is_an_error_where_the_port_must_stay(stack: state.State) -> None:
    with socket.create_server((HOST, 0)) as other:
        stack.kafka.port = stack.postgres.port = other.getsockname()[1]
        with pytest.raises(StackError, match="has taken it"):
            kafka._launch(stack, stack.data, same_port=True)
        with pytest.raises(StackError, match="has taken it"):
            postgres._launch(stack, stack.data, None, same_port=True)


def test_a_broker_that_dies_at_start_shows_the_end_of_its_log(
    stack: state.State, monkeypatch: pytest.MonkeyPatch
) -> None:
    kafka.format_directory(stack, lambda: b"bootstrap")
    monkeypatch.setattr(kafka, "java", lambda: Path("/bin/ls"))
    with pytest.raises(StackError, match="ended while it started") as caught:
        kafka.start(stack, stack.data, lambda: False, same_port=False)
    assert str(stack.kafka_log) in caught.value.message
    assert "option" in caught.value.message, "what the program itself said"
    assert "FAREGATE_KAFKA" in caught.value.fix


def test_when_one_server_fails_the_call_fails_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: object, **_kwargs: object) -> None:
        raise StackError("No network.", "Try again.")

    monkeypatch.setattr(jars, "ensure", refuse)
    with pytest.raises(StackError, match="No network"):
        control.up(tmp_path / "home", database=False)
    assert control.status(tmp_path / "home") is None


def test_a_lasting_and_an_ephemeral_stack_do_not_run_in_one_home(
    stack: state.State,
) -> None:
    stack.kafka.pid, stack.kafka.started = os.getpid(), identity(os.getpid())
    stack.save()
    with pytest.raises(StackError, match="A lasting stack already runs"):
        control.up(stack.home, ephemeral=True)


def test_a_left_over_initdb_is_not_taken_for_a_database(
    stack: state.State, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = stack.data / "postgres.init-left"
    left.mkdir()
    (left / "PG_VERSION").write_text("18")
    monkeypatch.setattr(
        postgres_files, "_init", lambda target, *_, **__: (target / "PG_VERSION").write_text("18")
    )
    monkeypatch.setattr(postgres_files, "can_enter", lambda *_: True)
    postgres_files.initialise(stack)
    assert not left.exists()
    assert (stack.data / "postgres" / "PG_VERSION").exists()


def test_a_failed_initdb_leaves_nothing(
    stack: state.State, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: object, **_kwargs: object) -> None:
        raise StackError("initdb failed.", "Mend it.")

    monkeypatch.setattr(postgres_files, "_init", fail)
    monkeypatch.setattr(postgres_files, "can_enter", lambda *_: True)
    with pytest.raises(StackError, match="initdb failed"):
        postgres_files.initialise(stack)
    assert not list(stack.data.glob("postgres*"))


def test_a_postmaster_pid_that_names_a_foreign_process_is_removed(stack: state.State) -> None:
    data = stack.data / "postgres"
    data.mkdir()
    lock = data / "postmaster.pid"
    lock.write_text("1\n/x\n0\n15000\n\n\n\n")
    assert postgres._adopt(stack, data) is False
    assert not lock.exists()
    lock.write_text("4194303\n")
    assert postgres._adopt(stack, data) is False
    assert lock.exists(), "PostgreSQL itself deals with a dead server's file"


def test_settings_are_quoted(tmp_path: Path) -> None:
    postgres_files.write_settings(tmp_path, None, {"log_line_prefix": "it's ", "fsync": "off"})
    text = (tmp_path / "faregate.conf").read_text()
    assert "log_line_prefix = 'it''s '\n" in text
    assert "fsync = 'off'\n" in text


def test_data_of_another_major_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "PG_VERSION").write_text("9\n")
    with pytest.raises(StackError, match="is of PostgreSQL 9"):
        postgres._check_version(tmp_path, None)


def test_a_private_directory_cannot_be_entered_by_another_account(tmp_path: Path) -> None:
    private = tmp_path / "private"
    (private / "data").mkdir(parents=True)
    private.chmod(0o700)
    assert not postgres_files.can_enter(private / "data", NOBODY)
    assert postgres_files.can_enter(Path("/usr/bin"), NOBODY)
