"""The settings of an outside identity provider; part of `Settings`."""

from __future__ import annotations

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

SECRETS = ("identity_webhook_secret",)
"""Those that may stand in a file named by `FAREGATE_…_FILE`, and are never shown."""


class IdentityFields(BaseSettings):
    """What can be set about who calls, where others say it. Times are seconds."""

    model_config = SettingsConfigDict(env_prefix="FAREGATE_", extra="forbid", frozen=True)

    oidc_issuer: str | None = Field(None, description="An OpenID Connect issuer, by its URL.")
    oidc_audience: str | None = Field(None, description="What its tokens must be meant for.")
    oidc_keys_s: float = Field(
        300, ge=1, le=3_600, description="A key that it withdraws is refused after so long."
    )
    identity_webhook_secret: SecretStr | None = Field(
        None, min_length=8, description="What it signs the events with that it posts to us."
    )
