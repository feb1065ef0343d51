"""Sealing users' keys: what opens, what does not, and which addresses they may go to."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from faregate.gateway.byok.providers import PROVIDERS, base_url, headers
from faregate.gateway.byok.sealing import (
    MasterKeyError,
    Place,
    Sealed,
    Unsealable,
    master_key,
    new_master_key,
    rewrap,
    seal,
    unseal,
)
from faregate.gateway.byok.vault import masked

OLD, NEW = master_key(new_master_key()), master_key(new_master_key())
HERE = Place("user:ada", "openrouter", 1)


@given(st.text(min_size=1, max_size=200))
def test_what_was_sealed_opens_and_shows_nothing(secret: str) -> None:
    sealed = seal(OLD, HERE, secret)
    assert unseal([NEW, OLD], HERE, sealed) == secret
    assert len(secret) < 4 or secret.encode() not in sealed.sealed + sealed.data_key


def test_the_same_key_never_looks_the_same() -> None:
    first, second = (seal(OLD, HERE, "sk-same") for _ in range(2))
    assert first.sealed != second.sealed
    assert first.data_key != second.data_key


@pytest.mark.parametrize(
    "elsewhere",
    [Place("user:eve", "openrouter", 1), Place("user:ada", "openai", 1), replace(HERE, version=2)],
)
def test_it_opens_in_its_own_place_only(elsewhere: Place) -> None:
    sealed = seal(OLD, HERE, "sk-1")
    with pytest.raises(Unsealable):
        unseal([OLD], elsewhere, sealed)
    with pytest.raises(Unsealable):
        rewrap(OLD, NEW, elsewhere, sealed)


def test_every_byte_of_it_is_guarded() -> None:
    good = seal(OLD, HERE, "sk-1")
    changed = [replace(good, sealed=c) for c in changes(good.sealed)]
    changed += [replace(good, data_key=c) for c in changes(good.data_key)]
    for sealed in changed:
        with pytest.raises(Unsealable):
            unseal([OLD], HERE, sealed)


def changes(whole: bytes) -> list[bytes]:
    """Give it with each byte changed in turn, and cut short."""
    one = [whole[:n] + bytes([whole[n] ^ 1]) + whole[n + 1 :] for n in range(len(whole))]
    return [*one, whole[:5], b""]


def test_a_rewrapped_key_opens_with_the_new_master_key_alone() -> None:
    sealed = seal(OLD, HERE, "sk-1")
    wrapped = rewrap(OLD, NEW, HERE, sealed)
    assert wrapped.sealed == sealed.sealed
    assert unseal([NEW], HERE, wrapped) == "sk-1"
    with pytest.raises(Unsealable, match=NEW.id):
        unseal([OLD], HERE, wrapped)
    with pytest.raises(Unsealable):
        unseal([OLD], HERE, Sealed(wrapped.sealed, wrapped.data_key, OLD.id))


@pytest.mark.parametrize("text", ["", "AAAA", "not base64!", "A" * 43 + "=A", "A" * 86])
def test_what_is_no_master_key_is_refused_without_being_shown(text: str) -> None:
    with pytest.raises(MasterKeyError) as refused:
        master_key(text)
    assert not text or text not in str(refused.value)


def test_master_keys_do_not_show() -> None:
    assert "raw" not in repr(OLD)
    assert OLD.id != NEW.id


def test_of_a_key_its_ends_are_shown_and_of_a_short_one_nothing() -> None:
    assert masked(SecretStr("sk-or-v1-0123456789-wxyz")) == "sk-…wxyz"
    assert masked(SecretStr("sk-short-1")) == "…"


def test_addresses_are_https_except_on_this_machine() -> None:
    assert (
        base_url("https://openrouter.ai/api/v1/", encrypted=True) == "https://openrouter.ai/api/v1"
    )
    assert base_url("http://127.0.0.1:4000", encrypted=True) == "http://127.0.0.1:4000/v1"
    assert base_url("http://litellm:4000", encrypted=False) == "http://litellm:4000/v1"
    for wrong in (
        "http://openrouter.ai/api/v1",
        "http://127.0.0.1.evil.example",
        "https://user:secret@example.com",
        "https://example.com/v1?key=1",
        "file:///etc/passwd",
        "openrouter.ai",
        "",
    ):
        with pytest.raises(ValueError, match="must"):
            base_url(wrong, encrypted=True)


def test_every_provider_is_encrypted_and_shown_its_key() -> None:
    for name, provider in PROVIDERS.items():
        assert base_url(provider.base_url, encrypted=True) == provider.base_url
        assert headers(name, SecretStr("k"))["Authorization"] == "Bearer k"
