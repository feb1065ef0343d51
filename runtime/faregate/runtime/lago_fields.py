"""The settings of Lago; part of `Settings`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from faregate.runtime.setting_types import Amount, Amounts

SECRETS = ("lago_hmac_key", "lago_api_key", "lago_public_key")
"""Those that may stand in a file named by `FAREGATE_…_FILE`; the keys are never shown."""


class LagoFields(BaseSettings):
    """What can be set about Lago. Times are seconds, amounts credits."""

    model_config = SettingsConfigDict(env_prefix="FAREGATE_", extra="forbid", frozen=True)

    lago_signature: Literal["hmac", "jwt"] = Field(
        "hmac", description="How Lago signs its webhooks; others are refused."
    )
    lago_hmac_key: SecretStr | None = Field(
        None, description="The HMAC signature token of our organization in Lago."
    )
    lago_public_key: str | None = Field(
        None, description="The public key of the Lago installation: PEM, or base64 of one."
    )
    lago_organization: str | None = Field(
        None, description="Lago's id of our organization: messages of others are refused."
    )
    lago_issuer: str | None = Field(
        None, description="What its JWT signatures say where Lago is; its API's URL by default."
    )
    lago_api_url: str = Field("https://api.getlago.com", description="Where Lago's API is.")
    lago_api_key: SecretStr | None = Field(
        None, description="With it, whoever registers becomes a customer in Lago."
    )
    lago_plans: dict[str, str] = Field(
        {}, description="Tiers by the codes of plans; others are the tier of their name."
    )
    lago_ended_tier: str = Field("free", description="The tier after the last subscription.")
    lago_add_ons: Amounts = Field(
        {}, description="What one unit of an add-on of a paid invoice buys, by its code."
    )
    lago_wallet_credit: Amount = Field(1, description="What one credit of a wallet is.")
    lago_unknown_customer: Literal["refuse", "user", "org"] = Field(
        "refuse", description="What an external id without prefix is that nobody has so far."
    )
