"""`faregate streams`: what it says where it cannot start."""

import os
import subprocess
import sys

WITHOUT_FAUST = """
import sys
sys.modules["faust"] = None
from faregate.runtime.cli import run_cli
sys.exit(run_cli(["streams", "burn"]))
"""


def test_the_missing_extra_is_named() -> None:
    env = {k: v for k, v in os.environ.items() if not k.startswith("FAREGATE_")}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_FAUST], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "pip install 'faregate[streams]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_stream_that_does_not_exist_is_usage() -> None:
    command = [sys.executable, "-m", "faregate.runtime", "streams", "weather"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "burn" in done.stderr
