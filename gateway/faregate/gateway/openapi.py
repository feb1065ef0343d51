"""The OpenAPI document: `python -m faregate.gateway.openapi [--check]` writes schemas/openapi.json."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from faregate.gateway.problems import ProblemBody, documented

FILE = "openapi.json"
_REGENERATE = "python -m faregate.gateway.openapi"
_DESCRIPTION = (
    "Errors are problems (RFC 9457) with a stable `reason` and what would `help`. Amounts are "
    "credits: JSON numbers with at most six decimals. Unsafe calls take an `Idempotency-Key`; "
    "the header `X-Faregate-Org` says which organization a call is for."
)


_FOR_AN_ORG = (
    "/api/credits/check",
    "/api/v1/credits/deduct",
    "/api/v1/credits/transactions",
    "/api/v1/holds",
    "/api/v1/llm/chat",
    "/v1/chat",
)
_ORG_HEADER: dict[str, Any] = {
    "name": "X-Faregate-Org",
    "in": "header",
    "required": False,
    "description": "The organization that the call is for; needed by members of several.",
    "schema": {"type": "string"},
}


def document(app: FastAPI) -> dict[str, Any]:
    """Describe the routes of an application: only what they really answer."""
    if app.openapi_schema is None:
        found = get_openapi(
            title=app.title,
            version=app.version,
            summary=app.summary,
            description=_DESCRIPTION,
            routes=app.routes,
        )
        schemas = found.setdefault("components", {}).setdefault("schemas", {})
        problem = ProblemBody.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(problem.pop("$defs", {}))
        schemas["Problem"] = problem
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        found["components"]["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}
        }
        for path, methods in found["paths"].items():
            for operation in methods.values():
                _tidy(operation)
                if path.startswith(_FOR_AN_ORG):
                    operation.setdefault("parameters", []).append(_ORG_HEADER)
        app.openapi_schema = found
    return app.openapi_schema


def _tidy(operation: dict[str, Any]) -> None:
    """Take out FastAPI's 422, for validation is 400 here; say where a token is needed."""
    answers = operation["responses"]
    if "HTTPValidationError" in json.dumps(answers.get("422", {})):
        del answers["422"]
    answers["431"] = documented(431)  # before anything knows which route it is for
    if "401" in answers and operation["tags"] not in (["Sign-in"], ["Webhooks"]):
        operation["security"] = [{"bearer": []}]


def text() -> str:
    """Give the text of the file as it is committed."""
    from faregate.gateway.app import bare_app
    from faregate.gateway.settings import GatewaySettings

    return json.dumps(document(bare_app(GatewaySettings())), indent=2, sort_keys=True) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; gives its exit code (0 up to date or written, 1 drift)."""
    parser = argparse.ArgumentParser(prog=_REGENERATE, description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 on drift")
    parser.add_argument("--schemas", type=Path, default=Path("schemas"), metavar="DIR")
    chosen = parser.parse_args(arguments)
    path: Path = chosen.schemas / FILE
    if not chosen.check:
        path.write_text(text(), "utf-8")
    elif not path.is_file() or path.read_text("utf-8") != text():
        sys.stderr.write(f"differs: {FILE}\nrun {_REGENERATE} and commit the result\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
