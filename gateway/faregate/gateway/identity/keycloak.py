"""What Keycloak's events say about a user: read, and nothing decided.

Keycloak has two kinds: user events (`type` REGISTER; EventRepresentation) and admin events
(`operationType` CREATE of the `resourceType` USER, the user as JSON text in `representation`;
AdminEventRepresentation): https://www.keycloak.org/docs-api/latest/rest-api/. It posts neither by
itself; extensions do. The one most used, keycloak-events (https://github.com/p2-inc/keycloak-events,
"HTTP sender" and "Webhooks"), sends them as they are or in one form of its own, with
`type` `access.REGISTER` or `admin.USER-CREATE` and the user's id in `authDetails`, signed by
HMAC-SHA256 over the body, in hex, in the header `X-Keycloak-Signature`.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from faregate.events.fields import ID_MAX_CHARS, find_unsafe
from faregate.gateway.fields import is_email
from faregate.gateway.parsing import parse_json
from faregate.gateway.problems import invalid

SIGNATURE = "X-Keycloak-Signature"
_DEPTH = 32
_USER_PATH = re.compile(r"users/([^/]{1,200})")
_VERIFIED = {"VERIFY_EMAIL": True, "UPDATE_EMAIL": False, "UPDATE_PROFILE": False}
_OF_USERS = _VERIFIED.keys() | {"REGISTER", "DELETE_ACCOUNT"}
_OF_ADMINS = frozenset({"CREATE", "UPDATE", "DELETE"})


@dataclass(frozen=True, slots=True)
class UserEvent:
    """Something that happened to a user at the identity provider.

    `verified` is whether the provider has verified their address; None: the event does not say.
    `email` is the address that this is about, where the event has it.
    """

    user_id: str
    at: datetime | None
    created: bool = False
    deleted: bool = False
    verified: bool | None = None
    email: str | None = None
    name: str | None = None
    realm: str | None = None


def signature_of(secret: str, body: bytes) -> str:
    """Sign a body as the sender does: HMAC-SHA256 in lower-case hex."""
    return hmac.digest(secret.encode(), body, "sha256").hex()


def is_signed(secret: str, body: bytes, signature: str) -> bool:
    """Tell whether this is the signature of exactly this body; takes the same time if not."""
    return hmac.compare_digest(signature_of(secret, body).encode(), signature.encode())


def read(event: Any) -> UserEvent | None:
    """Read an event; None: one that changes nothing here, a failed attempt for example.

    Raises Problem `validation_failed` for what is no event of Keycloak.
    """
    if not isinstance(event, dict):
        raise invalid("body", "send one event of Keycloak as a JSON object")
    kind, operation = event.get("type"), event.get("operationType")
    if not isinstance(operation, str) and not isinstance(kind, str):
        raise invalid("type", "an event of Keycloak has a type or an operationType")
    if event.get("error") is not None:
        return None
    if isinstance(operation, str):
        return _by_admin(event, operation)
    return _by_user(event, str(kind).removeprefix("access."))


def _by_user(event: Mapping[str, Any], kind: str) -> UserEvent | None:
    if kind not in _OF_USERS:
        return None
    details, auth = _object(event, "details"), _object(event, "authDetails")
    if kind == "UPDATE_PROFILE" and "updated_email" not in details:
        return None
    return UserEvent(
        _user_id("userId", event.get("userId", auth.get("userId"))),
        _time(event.get("time")),
        created=kind == "REGISTER",
        deleted=kind == "DELETE_ACCOUNT",
        verified=_VERIFIED.get(kind),
        email=_email(details.get("email")) if not kind.startswith("UPDATE_") else None,
        name=_name(details.get("first_name"), details.get("last_name")),
        realm=_text(event.get("realmName")),
    )


def _by_admin(event: Mapping[str, Any], operation: str) -> UserEvent | None:
    path = _USER_PATH.fullmatch(str(event.get("resourcePath")))
    if event.get("resourceType") != "USER" or operation not in _OF_ADMINS or path is None:
        return None
    user = _representation(event.get("representation")) if operation != "DELETE" else {}
    says = "email" in user or "emailVerified" in user
    return UserEvent(
        _user_id("resourcePath", path[1]),
        _time(event.get("time")),
        created=operation == "CREATE",
        deleted=operation == "DELETE",
        verified=user.get("emailVerified") is True if says else None,
        email=_email(user.get("email")),
        name=_name(user.get("firstName"), user.get("lastName")),
        realm=_text(event.get("realmName")),
    )


def _object(event: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = event.get(name) or {}
    if not isinstance(value, dict):
        raise invalid(name, "must be an object")
    return value


def _representation(value: Any) -> Mapping[str, Any]:
    """Read the user of an admin event: JSON in a text; nothing where the realm leaves it out."""
    if value is None:
        return {}
    found = parse_json(value.encode(), _DEPTH) if isinstance(value, str) else value
    if not isinstance(found, dict):
        raise invalid("representation", "must be a user, as JSON")
    return found


def _user_id(field: str, value: Any) -> str:
    if (
        not isinstance(value, str)
        or not 0 < len(value) <= ID_MAX_CHARS
        or value != value.strip()
        or find_unsafe(value)
    ):
        raise invalid(field, "names no user")
    return value


def _time(value: Any) -> datetime | None:
    """Read milliseconds since 1970."""
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    try:
        return datetime.fromtimestamp(value / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        raise invalid("time", "must be milliseconds since 1970") from None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _email(value: Any) -> str | None:
    return value if is_email(value) else None


def _name(*parts: Any) -> str | None:
    """Join first and last name; None where there is none that can be shown."""
    name = " ".join(p.strip() for p in parts if isinstance(p, str) and p.strip())
    return name if 0 < len(name) <= ID_MAX_CHARS and not find_unsafe(name) else None
