"""Settings of the LLM proxy, checked, and the master key that the embedded stack has."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import SecretStr

from faregate.gateway.byok.providers import base_url
from faregate.gateway.byok.sealing import MasterKey, MasterKeyError, master_key, new_master_key
from faregate.gateway.llm.settings import LlmSettings
from faregate.runtime import stack
from faregate.runtime.settings import Settings, SettingsError, label

KEY_FILE = "master.key"
_OWNER_ONLY = 0o600


def llm_settings(settings: Settings) -> LlmSettings:
    """Give what is set about the proxy. Raises SettingsError, which never has a secret."""
    _check_url("llm_base_url", settings.llm_base_url, encrypted=False)
    for provider, url in settings.byok_base_urls().items():
        _check_url(f"byok_{provider}_base_url", url, encrypted=True)
    current = settings.master_key or embedded_master_key(settings)
    for name, key in (("master_key", current), ("old_master_key", settings.old_master_key)):
        if key is not None:
            read_master_key(name, key)
    return LlmSettings(
        base_url=settings.llm_base_url,
        api_key=settings.llm_api_key,
        timeout_s=settings.llm_timeout_s,
        default_max_tokens=settings.llm_default_max_tokens,
        byok_base_urls=settings.byok_base_urls(),
        byok_check=settings.byok_check,
        master_key=current,
        old_master_key=settings.old_master_key,
    )


def read_master_key(name: str, key: SecretStr) -> MasterKey:
    """Read a master key that a setting has. Raises SettingsError."""
    try:
        return master_key(key.get_secret_value())
    except MasterKeyError as error:
        fix = "make one with: openssl rand -base64 32"
        raise SettingsError(f"{label(name)}: {error}", fix) from None


def embedded_master_key(settings: Settings) -> SecretStr | None:
    """Give the master key of the embedded stack, made at its first use; None with other servers."""
    if settings.database is not None:
        return None
    home = settings.home or stack.default_home()
    if not home.is_dir():
        return None
    path = home / KEY_FILE
    if not path.exists():
        _write_once(path, new_master_key())
    return SecretStr(path.read_text().strip())


def _write_once(path: Path, text: str) -> None:
    """Write a file that only its owner reads; who comes second keeps what is there."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, _OWNER_ONLY), "w") as file:
        file.write(text + "\n")
    try:
        os.link(beside, path)
    except FileExistsError:
        pass
    finally:
        beside.unlink()


def _check_url(name: str, url: str | None, *, encrypted: bool) -> None:
    try:
        if url is not None:
            base_url(url, encrypted=encrypted)
    except ValueError as error:
        raise SettingsError(f"{label(name)} {error}", "correct it, or take it out") from None
