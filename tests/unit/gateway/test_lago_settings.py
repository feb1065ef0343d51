"""Settings of Lago: what arrives, and what is refused without being shown."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest
from joserfc.jwk import RSAKey

from faregate.runtime.lago_serving import lago_settings
from faregate.runtime.settings import SettingsError, load

PEM = RSAKey.generate_key(2048, private=True).as_pem(private=False)


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FAREGATE_HOME", str(tmp_path))
    monkeypatch.setenv("FAREGATE_DATABASE", "postgresql://nobody@127.0.0.1:1/none")


def test_what_is_set_arrives(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("the-token\n")
    monkeypatch.setenv("FAREGATE_LAGO_HMAC_KEY_FILE", str(tmp_path / "key"))
    monkeypatch.setenv("FAREGATE_LAGO_API_KEY", "lago-api-key")
    monkeypatch.setenv("FAREGATE_LAGO_API_URL", "https://lago.example.com")
    monkeypatch.setenv("FAREGATE_LAGO_PLANS", '{"pro-monthly": "professional", "support": ""}')
    monkeypatch.setenv("FAREGATE_LAGO_ADD_ONS", '{"credits-100": 100, "drop": 0.5}')
    monkeypatch.setenv("FAREGATE_LAGO_WALLET_CREDIT", "2.5")
    try:
        found = lago_settings(load())
        shown = str(load().masked())
    finally:
        os.environ.pop("FAREGATE_LAGO_HMAC_KEY", None)  # read from its file
    assert found.takes_webhooks
    assert found.hmac_key is not None
    assert found.hmac_key.get_secret_value() == "the-token"
    assert found.issuer == found.api_url == "https://lago.example.com"
    assert [found.tier_of(p) for p in ("pro-monthly", "support", "starter")] == [
        "professional",
        "",
        "starter",
    ]
    assert (found.add_ons, found.wallet_credit_micro) == (
        {"credits-100": 100_000_000, "drop": 500_000},
        2_500_000,
    )
    for secret in ("the-token", "lago-api-key"):
        assert secret not in repr(found) + shown


def test_without_a_key_there_are_no_webhooks() -> None:
    assert not lago_settings(load()).takes_webhooks


def test_a_jwt_needs_the_key_and_the_organization(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAREGATE_LAGO_SIGNATURE", "jwt")
    with pytest.raises(SettingsError, match="FAREGATE_LAGO_PUBLIC_KEY is not set"):
        lago_settings(load())
    monkeypatch.setenv("FAREGATE_LAGO_PUBLIC_KEY", base64.encodebytes(PEM).decode())
    with pytest.raises(SettingsError, match="FAREGATE_LAGO_ORGANIZATION is not set"):
        lago_settings(load())
    monkeypatch.setenv("FAREGATE_LAGO_ORGANIZATION", "1a901a90-1a90-1a90-1a90-1a901a901a90")
    assert lago_settings(load()).takes_webhooks


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("FAREGATE_LAGO_PUBLIC_KEY", "hunter2"),
        ("FAREGATE_LAGO_HMAC_KEY", " "),
        ("FAREGATE_LAGO_API_URL", "lago:3000"),
        ("FAREGATE_LAGO_API_URL", "https://me:hunter2@lago.example.com"),
        ("FAREGATE_LAGO_SIGNATURE", "none"),
        ("FAREGATE_LAGO_PLANS", "professional"),
        ("FAREGATE_LAGO_ADD_ONS", '{"a": -1}'),
        ("FAREGATE_LAGO_WALLET_CREDIT", "-1"),
        ("FAREGATE_LAGO_UNKNOWN_CUSTOMER", "team"),
    ],
)
def test_what_cannot_be_used_is_named(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as refused:
        lago_settings(load())
    assert variable in str(refused.value)
    assert "hunter2" not in str(refused.value) + refused.value.fix
