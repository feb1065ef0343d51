"""Settings of the proxy: what is refused, and that no secret is ever shown for it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from faregate.gateway.byok.sealing import master_key, new_master_key
from faregate.runtime.llm_serving import embedded_master_key, llm_settings
from faregate.runtime.settings import SettingsError, load

DATABASE = "postgresql://nobody@127.0.0.1:1/none"


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FAREGATE_HOME", str(tmp_path))
    monkeypatch.setenv("FAREGATE_DATABASE", DATABASE)


def test_what_is_set_arrives(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    key = new_master_key()
    (tmp_path / "key").write_text(key + "\n")
    monkeypatch.setenv("FAREGATE_MASTER_KEY_FILE", str(tmp_path / "key"))
    monkeypatch.setenv("FAREGATE_LLM_BASE_URL", "http://litellm:4000")
    monkeypatch.setenv("FAREGATE_LLM_API_KEY", "sk-ours")
    monkeypatch.setenv("FAREGATE_BYOK_OPENROUTER_BASE_URL", "http://127.0.0.1:9/api")
    try:
        found = llm_settings(load())
    finally:
        os.environ.pop("FAREGATE_MASTER_KEY", None)  # read from its file
    assert found.base_url == "http://litellm:4000"
    assert found.api_key is not None
    assert found.api_key.get_secret_value() == "sk-ours"
    assert found.master_key is not None
    assert found.master_key.get_secret_value() == key
    assert found.byok_base_urls == {"openrouter": "http://127.0.0.1:9/api"}
    assert "sk-ours" not in repr(found)
    assert key not in repr(found)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("FAREGATE_BYOK_OPENAI_BASE_URL", "http://openai.example/v1"),
        ("FAREGATE_BYOK_OPENAI_BASE_URL", "https://me:hunter2@openai.example/v1"),
        ("FAREGATE_LLM_BASE_URL", "litellm:4000"),
        ("FAREGATE_MASTER_KEY", "hunter2"),
        ("FAREGATE_OLD_MASTER_KEY", "hunter2hunter2hunter2hunter2"),
    ],
)
def test_what_cannot_be_used_is_named_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as refused:
        llm_settings(load())
    assert variable in str(refused.value)
    assert "hunter2" not in str(refused.value) + refused.value.fix


def test_the_embedded_stack_has_a_master_key_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert embedded_master_key(load()) is None, "with a database of one's own, one sets it"
    monkeypatch.delenv("FAREGATE_DATABASE")
    made = embedded_master_key(load())
    assert made is not None
    assert master_key(made.get_secret_value())
    assert embedded_master_key(load()) == made
    (kept,) = tmp_path.iterdir()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600


def test_secrets_are_masked_where_settings_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAREGATE_MASTER_KEY", new_master_key())
    monkeypatch.setenv("FAREGATE_LLM_API_KEY", "sk-ours")
    shown = load().masked()
    assert shown["master_key"] == shown["llm_api_key"] == "**********"
