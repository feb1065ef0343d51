"""The settings of the LLM proxy and of users' own keys; part of `Settings`."""

from __future__ import annotations

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

SECRETS = ("llm_api_key", "master_key", "old_master_key")
"""Those that may stand in a file named by `FAREGATE_…_FILE`, and are never shown."""


class LlmFields(BaseSettings):
    """What can be set about calls of models. Times are seconds."""

    model_config = SettingsConfigDict(env_prefix="FAREGATE_", extra="forbid", frozen=True)

    llm_base_url: str | None = Field(
        None, description="The OpenAI-compatible upstream that platform credits pay for."
    )
    llm_api_key: SecretStr | None = Field(None, description="Its key.")
    llm_timeout_s: float = Field(300, gt=0, le=3_600, description="The longest a call may take.")
    llm_default_max_tokens: int = Field(
        1_024, ge=1, le=1_000_000, description="Held for an answer whose length is not said."
    )
    master_key: SecretStr | None = Field(
        None, description="Wraps the data keys of users' own keys: 32 bytes in base64."
    )
    old_master_key: SecretStr | None = Field(
        None, description="The one before, while `faregate byok rotate` is under way."
    )
    byok_check: bool = Field(
        default=False, description="Whether a key is shown to its provider before it is stored."
    )
    byok_anthropic_base_url: str | None = Field(None, description="Instead of Anthropic's own.")
    byok_deepseek_base_url: str | None = Field(None, description="Instead of DeepSeek's own.")
    byok_groq_base_url: str | None = Field(None, description="Instead of Groq's own.")
    byok_mistral_base_url: str | None = Field(None, description="Instead of Mistral's own.")
    byok_openai_base_url: str | None = Field(None, description="Instead of OpenAI's own.")
    byok_openrouter_base_url: str | None = Field(None, description="Instead of OpenRouter's own.")

    def byok_base_urls(self) -> dict[str, str]:
        """Give the addresses that were set, by provider; the setting's name has it."""
        named = {n: getattr(self, n) for n in LlmFields.model_fields if n.endswith("_base_url")}
        return {
            name.removeprefix("byok_").removesuffix("_base_url"): value
            for name, value in named.items()
            if value and name.startswith("byok_")
        }
