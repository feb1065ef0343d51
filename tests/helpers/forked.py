"""Asks what forks (`forking.py`) for a command, and ends as it ends: forked.py SOCKET WORDS..."""

import json
import os
import socket
import sys

asked = {
    "arguments": sys.argv[2:],
    "env": dict(os.environ),
    "directory": os.getcwd(),  # noqa: PTH109 - pathlib is half of what this costs
}
text = json.dumps(asked).encode()
with socket.socket(socket.AF_UNIX) as server:
    server.connect(sys.argv[1])
    socket.send_fds(server, [len(text).to_bytes(4, "big")], [0, 1, 2])
    server.sendall(text)
    code = server.recv(1)
sys.exit(code[0] if code else "the command was killed")
