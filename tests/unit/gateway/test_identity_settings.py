"""Settings of an outside identity provider: what arrives, and that no secret is ever shown."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

import pytest

from faregate.runtime.serving import gateway_settings
from faregate.runtime.settings import SettingsError, load

SECRET = "x7Gm2Kd9"


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FAREGATE_HOME", str(tmp_path))


def test_what_is_set_arrives_and_the_secret_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text(SECRET + "\n")
    monkeypatch.setenv("FAREGATE_IDENTITY_WEBHOOK_SECRET_FILE", str(tmp_path / "secret"))
    monkeypatch.setenv("FAREGATE_OIDC_KEYS_S", "60")
    try:
        settings = load()
    finally:
        os.environ.pop("FAREGATE_IDENTITY_WEBHOOK_SECRET", None)  # read from its file
    found = gateway_settings(settings)
    assert found.identity_webhook_secret is not None
    assert found.identity_webhook_secret.get_secret_value() == SECRET
    assert found.oidc_keys_s == 60
    shown = repr(found) + repr(settings) + str(settings.masked()) + str(asdict(found))
    assert SECRET not in shown


def test_without_a_secret_there_is_none() -> None:
    assert gateway_settings(load()).identity_webhook_secret is None


def test_a_secret_that_is_too_short_is_refused_and_not_repeated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FAREGATE_IDENTITY_WEBHOOK_SECRET", "x7Gm2K")
    with pytest.raises(SettingsError) as refused:
        load()
    assert "FAREGATE_IDENTITY_WEBHOOK_SECRET" in str(refused.value)
    assert "x7Gm2K" not in str(refused.value)
