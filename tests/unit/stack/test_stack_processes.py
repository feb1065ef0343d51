import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from faregate.runtime.stack import processes
from faregate.runtime.stack.errors import StackError

SLEEPER = [sys.executable, "-c", "import time; time.sleep(60)"]
IGNORE = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=1)"
)
DEAF = [sys.executable, "-c", f"{IGNORE}; time.sleep(60)"]


def test_a_spawned_process_is_alive_until_it_is_stopped(tmp_path: Path) -> None:
    pid, started = processes.spawn(SLEEPER, log=tmp_path / "log", cwd=tmp_path)
    assert processes.alive(pid, started)
    assert os.getsid(pid) == pid != os.getsid(0), "Ctrl-C at our terminal must not reach it"
    processes.stop(pid, started)
    assert not processes.alive(pid, started)
    assert not Path(f"/proc/{pid}").exists(), "not even a zombie stays"


def test_a_process_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    pid, started = processes.spawn(DEAF, log=log, cwd=tmp_path)
    assert processes.wait_until(lambda: "deaf" in log.read_text(), 10)
    processes.stop(pid, started, ((signal.SIGTERM, 0.2),))
    assert not processes.alive(pid, started)


def test_a_pid_that_now_belongs_to_another_process_is_never_signalled() -> None:
    with subprocess.Popen(SLEEPER) as foreign:
        stale = "an-earlier-boot:123"
        assert not processes.alive(foreign.pid, stale)
        processes.stop(foreign.pid, stale)
        assert foreign.poll() is None, "the foreign process still runs"
        foreign.kill()


def test_a_program_that_is_missing_is_an_error_with_a_fix(tmp_path: Path) -> None:
    with pytest.raises(StackError) as caught:
        processes.spawn([str(tmp_path / "absent")], log=tmp_path / "log", cwd=tmp_path)
    assert "could not be executed" in caught.value.message
    assert "faregate[stack]" in caught.value.fix


def test_a_taken_port_is_replaced_and_a_free_one_is_kept() -> None:
    free = processes.pick_port()
    assert free in processes.PORTS
    assert processes.pick_port(free) == free
    assert processes.pick_port(free, avoid=[free]) != free
    with socket.socket() as taken:
        taken.bind((processes.HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert not processes.port_is_free(port)
        assert processes.pick_port(port) != port


def test_the_second_holder_of_a_lock_waits_and_says_so(tmp_path: Path) -> None:
    lock, order, said = tmp_path / "lock", list[str](), threading.Event()

    def second() -> None:
        with processes.exclusive(lock, waiting=said.set):
            order.append("second")

    thread = threading.Thread(target=second)
    with processes.exclusive(lock):
        thread.start()
        assert said.wait(5)
        order.append("first")
    thread.join(5)
    assert order == ["first", "second"]


def test_a_lock_that_is_never_released_is_an_error(tmp_path: Path) -> None:
    with (
        processes.exclusive(tmp_path / "lock"),
        pytest.raises(StackError, match="has held"),
        processes.exclusive(tmp_path / "lock", timeout_s=0.1),
    ):
        pass


def test_a_long_log_is_put_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "LOG_ROTATE_BYTES", 10)
    log = tmp_path / "server.log"
    log.write_text("a line that is long\n")
    assert processes.log_size(log) == 0
    assert (tmp_path / "server.log.1").exists()
    log.write_text("\n".join(str(number) for number in range(100)))
    assert processes.log_tail(log, 2) == "  98\n  99"
    assert processes.log_tail(tmp_path / "absent") == ""
