"""Runs commands of the product without starting Python and importing everything for each.

A process of its own has imported the command line and forks for every command, so a command is a
process still: with its arguments, environment, directory and streams, and its exit code. What it
cannot show is how the command line starts; tests of that, and of signals, start Python.

    subprocess.run([*faregate(), "credits", "balance", "org:acme"], env=...)
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_CLIENT = Path(__file__).with_name("forked.py")
_LENGTH, _STREAMS = 4, 3


@cache
def faregate() -> tuple[str, ...]:
    """Give what stands for `faregate`; what it needs ends with this process."""
    directory = tempfile.TemporaryDirectory(prefix="faregate-forking-")
    place = str(Path(directory.name) / "socket")
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.helpers.forking", place],
        cwd=_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def end() -> None:
        if server.stdin is not None:
            server.stdin.close()
        server.wait(10)
        directory.cleanup()

    atexit.register(end)
    if server.stdout is None or server.stdout.readline() != "ready\n":
        raise RuntimeError("what forks for commands did not start")
    return (sys.executable, "-I", "-S", str(_CLIENT), place)


def _serve(place: str) -> None:
    """Fork for whoever comes, until stdin ends."""
    from faregate.runtime.cli.root import PLACES, load

    for name in PLACES:
        load(name)
    import_module("faregate.runtime.serving")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the children
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(place)
    listener.listen(64)
    gc.collect()
    gc.freeze()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    owner = os.fork()
    if owner == 0:  # as long as our stdin is open
        listener.close()
        sys.stdin.read()
        os.kill(os.getppid(), signal.SIGTERM)
        os._exit(0)
    while True:
        client, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            _run(client)
        client.close()


def _run(client: socket.socket) -> None:
    """Become the command that `client` asks for."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    first, streams, _, _ = socket.recv_fds(client, _LENGTH, _STREAMS)
    length = int.from_bytes(first, "big")
    text = b""
    while len(text) < length:
        text += client.recv(length - len(text))
    asked = json.loads(text)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(asked["env"])
    os.chdir(asked["directory"])
    sys.argv = ["faregate", *asked["arguments"]]
    os._exit(_ended(client))


def _ended(client: socket.socket) -> int:
    from faregate.runtime.__main__ import main

    code: object = 1
    try:
        main()
        code = 0
    except SystemExit as error:
        code = error.code
    except BaseException:  # noqa: BLE001 - as the interpreter ends a program
        traceback.print_exc()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    number = code if isinstance(code, int) else int(code is not None)
    client.sendall(bytes([number]))
    return number


if __name__ == "__main__":
    _serve(sys.argv[1])
