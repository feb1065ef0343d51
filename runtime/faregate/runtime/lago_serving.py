"""Settings of Lago, checked when the gateway starts."""

from __future__ import annotations

from faregate.events.amounts import parse_credits
from faregate.gateway.byok.providers import base_url
from faregate.gateway.lago.settings import LagoSettings
from faregate.gateway.lago.signature import public_key
from faregate.runtime.settings import Settings, SettingsError, label


def lago_settings(settings: Settings) -> LagoSettings:
    """Give what is set about Lago. Raises SettingsError, which never has a secret."""
    _check(settings)
    return LagoSettings(
        signature=settings.lago_signature,
        hmac_key=settings.lago_hmac_key,
        public_key=settings.lago_public_key,
        organization=settings.lago_organization,
        issuer=settings.lago_issuer or settings.lago_api_url,
        api_url=settings.lago_api_url,
        api_key=settings.lago_api_key,
        plans=settings.lago_plans,
        ended_tier=settings.lago_ended_tier,
        add_ons={code: parse_credits(each) for code, each in settings.lago_add_ons.items()},
        wallet_credit_micro=parse_credits(settings.lago_wallet_credit, allow_zero=True),
        unknown_customer=settings.lago_unknown_customer,
    )


def _check(settings: Settings) -> None:
    try:
        base_url(settings.lago_api_url, encrypted=False)
    except ValueError as error:
        raise SettingsError(f"{label('lago_api_url')} {error}", "correct it") from None
    if settings.lago_public_key is not None:
        try:
            public_key(settings.lago_public_key)
        except ValueError as error:
            fix = "set what Lago's API gives at /api/v1/webhooks/public_key"
            raise SettingsError(f"{label('lago_public_key')} {error}", fix) from None
    jwt = settings.lago_signature == "jwt"
    if jwt and settings.lago_public_key is None:
        raise SettingsError(
            f"{label('lago_signature')} is jwt, but {label('lago_public_key')} is not set",
            "set what Lago's API gives at /api/v1/webhooks/public_key",
        )
    if jwt and not settings.lago_organization:
        raise SettingsError(
            f"{label('lago_signature')} is jwt, but {label('lago_organization')} is not set",
            "set Lago's id of your organization: all organizations of a Lago sign with one key",
        )
    key = settings.lago_hmac_key
    if key is not None and not key.get_secret_value().strip():
        raise SettingsError(f"{label('lago_hmac_key')} is empty", "set it, or take it out")
