"""What can be set about the LLM proxy and users' own keys. Secrets never show in a repr."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from pydantic import SecretStr


@dataclass(frozen=True, slots=True)
class LlmSettings:
    """Settings of the proxy. URLs come from here only, never from a caller."""

    base_url: str | None = None
    """The OpenAI-compatible upstream that platform credits pay for; None: there is none."""
    api_key: SecretStr | None = None
    timeout_s: float = 300.0
    """The longest a whole call may take, from its first byte to its last."""
    default_max_tokens: int = 1_024
    """Reserved for the answer of a call that does not say how long it may become."""
    byok_base_urls: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Where a provider is, instead of its own address."""
    byok_check: bool = False
    """Whether a key is shown to its provider before it is stored."""
    master_key: SecretStr | None = None
    """Wraps the data keys of users' keys: 32 bytes in base64."""
    old_master_key: SecretStr | None = None
    """The one before, while keys are being rotated: it opens, and seals nothing."""
    hold_margin_s: float = 60.0
    """A hold outlives its call by so much, and then closes by itself."""
