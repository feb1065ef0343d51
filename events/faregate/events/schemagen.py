"""Generates `schemas/` from the models: `python -m faregate.events.schemagen [--check]`.

Writes `<topic>/<Type>.schema.json`, `examples/<topic>/<Type>.json` and `asyncapi.yaml`. With
--check nothing is written; it exits 1 and names what differs. Other files there are left alone.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from faregate.events.asyncapi import asyncapi_document
from faregate.events.codec import encode
from faregate.events.examples import examples
from faregate.events.jsonschemas import schema_of
from faregate.events.topics import TOPICS
from faregate.events.yamltext import to_yaml

EXAMPLES_DIR = "examples"
ASYNCAPI_FILE = "asyncapi.yaml"
_REGENERATE = "python -m faregate.events.schemagen"


def generate() -> dict[str, str]:
    """Give the text of every generated file by its path below `schemas/`."""
    files = {}
    shown = examples()
    for topic in TOPICS.values():
        for name in topic.types:
            files[f"{topic.name}/{name}.schema.json"] = to_json_text(schema_of(name))
            example = json.loads(encode(shown[name])[0])
            files[f"{EXAMPLES_DIR}/{topic.name}/{name}.json"] = to_json_text(example)
    files[ASYNCAPI_FILE] = to_yaml(asyncapi_document())
    return files


def drift(directory: Path, files: dict[str, str]) -> list[str]:
    """Name what has to change in `directory`, one line per file; empty when it is up to date."""
    found = [f"stale: {path.relative_to(directory)}" for path in _stale(directory, files)]
    for name, text in files.items():
        path = directory / name
        if not path.is_file():
            found.append(f"missing: {name}")
        elif path.read_text("utf-8") != text:
            found.append(f"differs: {name}")
    return sorted(found)


def write(directory: Path, files: dict[str, str]) -> None:
    """Bring `directory` up to date; removes generated files of types that are gone."""
    for path in _stale(directory, files):
        path.unlink()
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")


def to_json_text(value: Any) -> str:
    """Write JSON as it is committed: two blanks of indentation, ASCII, a newline at the end."""
    return json.dumps(value, indent=2) + "\n"


def _stale(directory: Path, files: dict[str, str]) -> list[Path]:
    generated = [*directory.glob("*/*.schema.json"), *directory.glob(f"{EXAMPLES_DIR}/*/*.json")]
    return [path for path in generated if path.relative_to(directory).as_posix() not in files]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; gives its exit code (0 up to date or written, 1 drift)."""
    parser = argparse.ArgumentParser(prog=_REGENERATE, description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 on drift")
    parser.add_argument("--schemas", type=Path, default=Path("schemas"), metavar="DIR")
    chosen = parser.parse_args(arguments)
    files = generate()
    found = drift(chosen.schemas, files)
    if chosen.check and found:
        sys.stderr.write("\n".join([*found, f"run {_REGENERATE} and commit the result", ""]))
        return 1
    if not chosen.check:
        write(chosen.schemas, files)
    return 0


if __name__ == "__main__":
    sys.exit(main())
