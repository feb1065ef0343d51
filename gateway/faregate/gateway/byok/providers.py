"""The providers that users may bring keys of: where they are, and how a key is checked.

Addresses come from here and from settings, never from a caller.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from pydantic import SecretStr

_LOCAL = {"127.0.0.1", "::1"}


@dataclass(frozen=True, slots=True)
class Provider:
    """One provider with an OpenAI-compatible interface. `check` is a path that only keys open."""

    base_url: str
    check: str = "/models"


PROVIDERS: Mapping[str, Provider] = {
    "anthropic": Provider("https://api.anthropic.com/v1"),
    "deepseek": Provider("https://api.deepseek.com/v1"),
    "groq": Provider("https://api.groq.com/openai/v1"),
    "mistral": Provider("https://api.mistral.ai/v1"),
    "openai": Provider("https://api.openai.com/v1"),
    "openrouter": Provider("https://openrouter.ai/api/v1", check="/key"),
}


def headers(provider: str | None, key: SecretStr) -> dict[str, str]:
    """Give the headers that show a key to its provider (None: the installation's upstream)."""
    shown = {"Authorization": f"Bearer {key.get_secret_value()}"}
    if provider == "anthropic":
        shown |= {"x-api-key": key.get_secret_value(), "anthropic-version": "2023-06-01"}
    return shown


def base_url(text: str, *, encrypted: bool) -> str:
    """Check the base URL of an interface; without a path it ends in /v1.

    `encrypted`: only https, or http on this machine. Raises ValueError.
    """
    place = urlsplit(text.strip())
    if place.scheme not in {"http", "https"} or not place.hostname:
        raise ValueError("must be a URL that begins with https:// or http://")
    if place.username or place.password or place.query or place.fragment:
        raise ValueError("must be an address alone, without login, query or fragment")
    if encrypted and place.scheme != "https" and place.hostname not in _LOCAL:
        raise ValueError("must begin with https:// (http:// only on 127.0.0.1)")
    path = place.path.rstrip("/") or "/v1"
    return f"{place.scheme}://{place.netloc}{path}"
