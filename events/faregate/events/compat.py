"""Refuses breaking changes of event types: `python -m faregate.events.compat [--release]`.

BACKWARD_TRANSITIVE: whoever reads with today's schema must be able to read every event that was
valid under any released one. `schemas/released/<Type>/<n>.schema.json` holds them all (also in a
shallow clone); --release adds today's where it differs from the newest. Exits 1 on a break.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from faregate.events.jsonschemas import resolve, schema_of
from faregate.events.schemagen import to_json_text
from faregate.events.types import EVENT_TYPES

RELEASED_DIR = "released"
_ADVICE = "give the changed event a new version (a new type) instead"
# Keywords where a larger, or a smaller, number accepts less.
_LOWER_BOUNDS = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_UPPER_BOUNDS = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
# Keywords whose meaning is not compared: one that is new or changed counts as a break.
_OPAQUE = ("pattern", "format", "multipleOf", "uniqueItems", "not", "const", "allOf", "if")

Schema = dict[str, Any]


def breaking_changes(old: Schema, new: Schema) -> list[str]:
    """Name what `new` refuses although `old` accepted it, one line each; empty: compatible."""
    if old.get("$id") != new.get("$id"):
        return [f"$id was {old.get('$id')}, is {new.get('$id')} (another topic or type)"]
    return list(_Comparison(old, new).breaks(old, new, "data"))


class _Comparison:
    """Compares two schemas node by node; holds the roots that references point into."""

    def __init__(self, old: Schema, new: Schema) -> None:
        self._old, self._new = old, new
        self._known = set(old.get("properties", {}))

    def breaks(self, old: Any, new: Any, where: str) -> Iterator[str]:
        old, new = resolve(old, self._old), resolve(new, self._new)
        if "anyOf" in old and "anyOf" not in new and not {"type", "properties"} & old.keys():
            for before in old["anyOf"]:  # e.g. a string or null: today has to take both
                yield from self.breaks(before, new, where)
            return
        for keyword in ("anyOf", "oneOf"):
            yield from self._alternatives(old, new, keyword, where)
        yield from _type_breaks(old, new, where)
        yield from _bound_breaks(old, new, where)
        for keyword in _OPAQUE:
            if keyword in new and new[keyword] != old.get(keyword):
                yield f"{where}: {keyword} is new or another one"
        yield from self._object_breaks(old, new, where)
        if "items" in new:
            yield from self.breaks(old.get("items", {}), new["items"], f"{where}[]")

    def _alternatives(self, old: Schema, new: Schema, keyword: str, where: str) -> Iterator[str]:
        """Each alternative of before must fit into one of today's."""
        if keyword not in new:
            return
        for before in old.get(keyword, [old]):
            reasons = [list(self.breaks(before, now, where)) for now in new[keyword]]
            if all(reasons):
                yield min(reasons, key=len)[0]

    def _object_breaks(self, old: Schema, new: Schema, where: str) -> Iterator[str]:
        for name in new.get("required", ()):
            if name not in old.get("required", ()):
                yield f"{where}.{name} is required now"
        if new.get("additionalProperties") is False and "additionalProperties" not in old:
            yield f"{where}: unknown fields are refused now"
        before = old.get("properties", {})
        for name, now in new.get("properties", {}).items():
            # A field that did not exist was never sent; an existing one had no limit here.
            if name in before or (name in self._known and new is not self._new):
                yield from self.breaks(before.get(name, {}), now, f"{where}.{name}")


def _type_breaks(old: Schema, new: Schema, where: str) -> Iterator[str]:
    before, now = _types(old), _types(new)
    if now is not None and (before is None or not before <= now):
        shown = "anything" if before is None else "/".join(sorted(before))
        yield f"{where}: the type was {shown}, is {'/'.join(sorted(now))}"
    if "enum" in new:
        if "enum" not in old and "const" not in old:
            yield f"{where}: only some values are allowed now"
        gone = [v for v in old.get("enum", [old.get("const")]) if v not in new["enum"]]
        if gone and ("enum" in old or "const" in old):
            yield f"{where}: the value {', '.join(map(str, gone))} is no longer allowed"


def _types(schema: Schema) -> set[str] | None:
    named = schema.get("type")
    if named is None:
        return None
    types = {named} if isinstance(named, str) else set(named)
    return types | {"integer"} if "number" in types else types


def _bound_breaks(old: Schema, new: Schema, where: str) -> Iterator[str]:
    for keyword in _LOWER_BOUNDS:
        if keyword in new and (keyword not in old or new[keyword] > old[keyword]):
            yield f"{where}: {keyword} was {old.get(keyword, 'not set')}, is {new[keyword]}"
    for keyword in _UPPER_BOUNDS:
        if keyword in new and (keyword not in old or new[keyword] < old[keyword]):
            yield f"{where}: {keyword} was {old.get(keyword, 'not set')}, is {new[keyword]}"


def check(schemas: Path) -> list[str]:
    """Compare every released schema with today's; gives one line per break."""
    found = []
    for path in _released(schemas):
        type_name = path.parent.name
        if type_name not in EVENT_TYPES:
            found.append(f"{type_name}: the type is gone")
            continue
        released = json.loads(path.read_text("utf-8"))
        against = f"{type_name} (against release {_number(path)})"
        found += [f"{against}: {line}" for line in breaking_changes(released, schema_of(type_name))]
    return found


def release(schemas: Path) -> list[str]:
    """Record today's schemas as released, where they differ from the newest; names the files."""
    newest = {path.parent.name: path for path in _released(schemas)}
    written = []
    for name in EVENT_TYPES:
        text = to_json_text(schema_of(name))
        last = newest.get(name)
        if last is None or last.read_text("utf-8") != text:
            number = _number(last) + 1 if last else 1
            path = schemas / RELEASED_DIR / name / f"{number}.schema.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
            written.append(str(path))
    return written


def _released(schemas: Path) -> list[Path]:
    """Give the files of all releases, the oldest of each type first."""
    files = (schemas / RELEASED_DIR).glob("*/*.schema.json")
    return sorted(files, key=lambda path: (path.parent.name, _number(path)))


def _number(path: Path) -> int:
    return int(path.name.partition(".")[0])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; gives its exit code (0 compatible, 1 a break)."""
    parser = argparse.ArgumentParser(prog="python -m faregate.events.compat", description=__doc__)
    parser.add_argument("--release", action="store_true", help="record today's schemas too")
    parser.add_argument("--schemas", type=Path, default=Path("schemas"), metavar="DIR")
    chosen = parser.parse_args(arguments)
    if found := check(chosen.schemas):
        sys.stderr.write("\n".join([*found, _ADVICE, ""]))
        return 1
    if chosen.release:
        sys.stdout.writelines(f"{path}\n" for path in release(chosen.schemas))
    return 0


if __name__ == "__main__":
    sys.exit(main())
