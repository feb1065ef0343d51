"""Runs schemathesis over the whole of `schemas/openapi.json` as one of those who call."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests.fuzz.place import Place

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
    "allow_header_conformance",
    "ignored_auth",
)
REFUSALS = [400, 401, 403, 404, 405, 409, 413, 415, 422, 429, 431]
"""What may be said of a request that is not as the document has it."""
NAMES: Mapping[str, tuple[str, ...]] = {
    "amounts": ("body.credits", "body.balance", "body.requiredCredits"),
    "entries": ("body.entry_id",),
    "orgs": ("path.org_id", "header.X-Faregate-Org", "query.subject_id", "body.subject_id"),
    "users": ("body.user_id", "body.userId", "query.subject_id", "body.subject_id"),
    "holds": ("path.hold_id", "body.operations[*].hold_id"),
    "emails": ("body.email", "body.username"),
    "passwords": ("body.password",),
    "models": ("body.model", "body.operations[*].model"),
    "providers": ("path.provider", "body.provider", "header.x-byok-provider"),
    "tiers": ("body.tier",),
    "times": ("query.from", "query.to", "body.expires_at", "body.effective_from"),
}
"""Which values of a place are sent most of the time, and as what."""
NASTY_HEADERS = ("X-Lago-Signature", "X-Keycloak-Signature", "idempotency-key")
"""Other headers: an HTTP client does not send all that is nasty, and schemathesis stops there."""
OFTEN = 0.8
SELDOM = 0.02


def config(place: Place) -> str:
    """Write schemathesis' settings: what is generated, from which values."""
    lines = [f"hooks = {json.dumps(str(Path(__file__).with_name('hooks.py')))}"]
    lines += ["[auth]", "auto-signup = false"]
    lines += ["[checks.negative_data_rejection]", f"expected-statuses = {json.dumps(REFUSALS)}"]
    lines += ["[generation.dictionaries]"]
    lines.append(f'string = {{ dictionary = "nasty", probability = {SELDOM} }}')
    known = dict(place.known)
    known["nasty_headers"] = [x for x in known["nasty"] if fits_a_header(x)]
    for name, values in known.items():
        lines += [f"[dictionaries.{name}]", f"values = {json.dumps(values)}"]
    lines.append("[parameters]")
    bound: dict[str, str] = {}
    for name, places in NAMES.items():
        bound.update(dict.fromkeys(places, name))
    lines += [
        f'"{where}" = {{ dictionary = "{name}", probability = {OFTEN} }}'
        for where, name in bound.items()
    ]
    lines += [
        f'"header.{name}" = {{ dictionary = "nasty_headers", probability = {SELDOM} }}'
        for name in NASTY_HEADERS
    ]
    return "\n".join(lines) + "\n"


def fits_a_header(value: str) -> bool:
    """Tell what HTTP can carry as a header: visible Latin-1, no space around it (RFC 9110, 5.5)."""
    return value == value.strip() and all(c.isprintable() and c <= "\xff" for c in value)


async def fuzz(place: Place, kind: str, *options: str) -> tuple[int, str]:
    """Call every route as somebody of that kind; give the exit code and what was said."""
    person = place.people[kind]
    token = ["--header", f"Authorization: Bearer {person.token}"] if person.token else []
    with tempfile.TemporaryDirectory(prefix="faregate-fuzz-") as folder:
        settings = Path(folder, "schemathesis.toml")
        settings.write_text(config(place), "utf-8")
        document = Path(folder, "openapi.json")
        document.write_text(place.document, "utf-8")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(settings), "run"),
            *(str(document), "--url", place.url, "--checks", ",".join(CHECKS), *token),
            *("--request-timeout", "30", "--suppress-health-check", "all", "--warnings", "off"),
            *("--no-color", "--continue-on-failure", *options),
            cwd=folder,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            said, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    return process.returncode or 0, said.decode()
