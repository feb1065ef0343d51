"""Settings: environment `FAREGATE_*`, secrets also as `FAREGATE_*_FILE`, or a TOML file."""

from __future__ import annotations

import os
import re
import tomllib
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit, urlunsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from faregate.consumers.kafka import Cluster
from faregate.events.amounts import format_credits, parse_credits
from faregate.ledger.core import Rules, Welcome
from faregate.runtime.identity_fields import SECRETS as IDENTITY_SECRETS
from faregate.runtime.identity_fields import IdentityFields
from faregate.runtime.kafka_fields import SECRETS as KAFKA_SECRETS
from faregate.runtime.kafka_fields import KafkaFields
from faregate.runtime.lago_fields import SECRETS as LAGO_SECRETS
from faregate.runtime.lago_fields import LagoFields
from faregate.runtime.llm_fields import SECRETS as LLM_SECRETS
from faregate.runtime.llm_fields import LlmFields
from faregate.runtime.setting_types import Amount, Amounts, Environment
from faregate.runtime.streams_fields import StreamsFields
from faregate.runtime.wording import in_credits, meant

PREFIX = "FAREGATE_"
CONFIG_ENVIRONMENT = "FAREGATE_CONFIG"
SECRETS = (*LLM_SECRETS, *IDENTITY_SECRETS, *LAGO_SECRETS, *KAFKA_SECRETS)
_LAST_PORT = 65_535
_PREFIX = re.compile(r"[A-Za-z0-9._-]{1,100}").fullmatch
DEFAULT_PORT = 8080
"""Of the gateway."""


class SettingsError(Exception):
    """A setting that cannot be used; the message names it and says what it may be."""

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message)
        self.fix = fix


class Settings(LlmFields, IdentityFields, LagoFields, StreamsFields, KafkaFields):
    """All settings of the product. Times are seconds, amounts credits."""

    model_config = SettingsConfigDict(env_prefix="FAREGATE_", extra="forbid", frozen=True)

    home: Path | None = Field(None, description="Where the embedded stack keeps its data.")
    kafka: str | None = Field(None, description="Bootstrap servers of an outside Kafka.")
    database: SecretStr | None = Field(None, description="URL of an outside PostgreSQL.")
    topic_prefix: str = Field("", description="Goes before every topic and group name.")
    replication: int = Field(1, ge=1, description="Replication factor of topics we create.")
    partitions: int | None = Field(None, ge=1, description="Partitions of topics we create.")
    provisioning: Literal["auto", "manual"] = Field(
        "auto", description="Whether users seen for the first time get the welcome grant."
    )
    welcome_credits: Amount = Field(5.0, description="The welcome grant of a user.")
    welcome_days: float = Field(
        30, ge=0, le=36_500, description="Unused welcome credits expire after so long; 0: never."
    )
    welcome_verified_only: bool = Field(
        default=False, description="No welcome grant before the e-mail address is verified."
    )
    welcome_by_referral: Amounts = Field(
        {}, description="Another welcome grant for who comes by these campaigns."
    )
    referral_bonus_credits: Amount = Field(0, description="What who sent a new user gets.")
    welcome_arms: Amounts = Field(
        {}, description="Welcome grants to compare: users are spread over them by their id."
    )
    welcome_milestones: Amounts = Field(
        {}, description="Parts of the welcome grant that wait until their milestone is reached."
    )
    low_balance_credits: Amount = Field(0, description="CreditsLowV1 at this balance; 0: never.")
    low_balance_percent: int = Field(
        20, ge=0, le=100, description="And at so much of what the last grant brought it to."
    )
    hold_ttl_s: float = Field(3600, gt=0, description="How long a hold lives without progress.")
    hold_grace_s: float = Field(
        30, ge=0, description="How long a finished pipeline's hold waits for late usage."
    )
    usage_max_age_days: float = Field(35, gt=0, description="Older usage goes to the DLQ.")
    usage_max_ahead_s: float = Field(300, ge=0, description="Usage from further ahead does too.")
    checkpoint_entries: int = Field(100, ge=0, description="Entries between two checkpoints.")
    checkpoint_every_s: float = Field(60, gt=0, description="Seconds between two checkpoints.")
    sweep_every_s: float = Field(1, gt=0, description="Seconds between two sweeps of holds.")
    session_timeout_ms: int = Field(
        15_000, ge=6_000, description="After so long without a sign a consumer is replaced."
    )
    watchdog_s: float = Field(
        120, gt=0, description="A stuck consumer or stream is ended after so long."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="What is logged."
    )
    log_format: Literal["auto", "json", "text"] = Field(
        "auto", description="`auto`: text on a terminal, JSON lines elsewhere."
    )
    # The HTTP gateway.
    gateway_host: str = Field("127.0.0.1", description="Where the gateway listens.")
    gateway_port: int | None = Field(
        None, ge=0, le=65_535, description="Its port; `serve` runs it where one is set."
    )
    gateway_workers: int = Field(1, ge=1, le=64, description="Processes that share its port.")
    gateway_fd: int | None = Field(
        None, ge=3, description="A listening socket that was inherited, by its file descriptor."
    )
    gateway_docs: bool = Field(default=False, description="Whether it serves its API's pages.")
    gateway_cors_origins: str = Field("", description="Origins of web pages that may call it.")
    gateway_token_ttl_s: int = Field(3600, ge=60, description="How long its tokens are valid.")
    gateway_sign_ins_per_minute: int = Field(
        10, ge=1, description="Failed sign-ins per e-mail address."
    )
    gateway_trusted_proxies: str = Field(
        "", description="Addresses whose X-Forwarded-For is believed."
    )
    gateway_max_body_bytes: int = Field(1_048_576, ge=1024, description="The largest body.")
    gateway_timeout_s: float = Field(30, gt=0, description="How long a call may take.")
    gateway_self_purchase: bool = Field(
        default=True, description="Whether admins of an org may book purchases for it."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic's signature
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic's signature
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic's signature
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment first, then the TOML file (passed as init values by `load`)."""
        return Environment(settings_cls), init_settings

    @field_validator("kafka")
    @classmethod
    def _bootstrap(cls, value: str | None) -> str | None:
        for place in (value or "").split(",") if value else ():
            host, _, port = place.strip().rpartition(":")
            bare = host.removeprefix("[").removesuffix("]")
            wrong = not bare or (":" in bare and bare == host)
            if wrong or not (port.isascii() and port.isdigit() and 0 < int(port) <= _LAST_PORT):
                raise ValueError("must be host:port, or several with commas between them")
        return value

    @field_validator("topic_prefix")
    @classmethod
    def _prefix(cls, value: str) -> str:
        if value and not _PREFIX(value):
            raise ValueError("may have letters, digits and . _ -, at most 100 (Kafka's rule)")
        return value

    @field_validator("database")
    @classmethod
    def _postgresql(cls, value: SecretStr | None) -> SecretStr | None:
        if value and not value.get_secret_value().startswith(("postgresql://", "postgres://")):
            raise ValueError("must be a URL that begins with postgresql://")
        return value

    @model_validator(mode="after")
    def _welcomes_somebody(self) -> Self:
        """Refuse what would be promised and never given. Raises SettingsError."""
        more = ("welcome_by_referral", "welcome_arms", "welcome_milestones")
        said = [name for name in (*more, "referral_bonus_credits") if getattr(self, name)]
        if said and not self.welcome_credits:
            raise SettingsError(
                f"{label('welcome_credits')} is 0, so nobody is welcomed, but "
                f"{' and '.join(map(label, said))} would need it",
                "set it above 0, or take the others out",
            )
        base = self.welcome_arms.values() or [self.welcome_credits]
        least = min(map(_micro, (*base, *self.welcome_by_referral.values())))
        parts = sum(map(_micro, self.welcome_milestones.values()))
        if parts > least:
            raise SettingsError(
                f"{label('welcome_milestones')} hold back {in_credits(parts)}, but the smallest "
                f"welcome grant is {format_credits(least)}",
                f"let them sum up to {format_credits(least)} or less, or give more",
            )
        return self

    @model_validator(mode="after")
    def _comes_in(self) -> Self:
        """Refuse what no Kafka could be reached with. Raises SettingsError."""
        if (fault := self.kafka_fault(self.kafka, label)) is not None:
            raise SettingsError(*fault)
        return self

    def rules(self) -> Rules:
        """Give the rules that decisions rest on."""
        return Rules(
            hold_ttl=timedelta(seconds=self.hold_ttl_s),
            grace=timedelta(seconds=self.hold_grace_s),
            max_age=timedelta(days=self.usage_max_age_days),
            max_ahead=timedelta(seconds=self.usage_max_ahead_s),
            provisioning=self.provisioning,
            welcome_micro=_micro(self.welcome_credits),
            welcome=Welcome(
                days=self.welcome_days or None,
                verified_only=self.welcome_verified_only,
                by_referral=_by_name(self.welcome_by_referral),
                referral_bonus=_micro(self.referral_bonus_credits),
                arms=_by_name(self.welcome_arms),
                milestones=_by_name(self.welcome_milestones),
            ),
            low_micro=_micro(self.low_balance_credits),
            low_percent=self.low_balance_percent,
        )

    def cluster(self, bootstrap: str) -> Cluster:
        """Give the Kafka at `bootstrap` with our prefix and time-outs, and how we come in."""
        return Cluster(bootstrap, self.topic_prefix, self.session_timeout_ms, self.kafka_options())

    def masked(self) -> dict[str, Any]:
        """Give what is in force, for people to read: secrets are masked."""
        return self.model_dump(mode="json")


def _micro(amount: float) -> int:
    return parse_credits(amount, allow_zero=True)


def _by_name(amounts: dict[str, float]) -> tuple[tuple[str, int], ...]:
    """Give micro-credits by name; sorted, so that every process spreads users alike."""
    return tuple(sorted((name, _micro(amount)) for name, amount in amounts.items()))


def load() -> Settings:
    """Read settings from the environment and the TOML file named by FAREGATE_CONFIG.

    Raises SettingsError, naming what is wrong.
    """
    _secrets_from_files()
    try:
        return Settings(**_from_file())
    except ValidationError as error:
        wrong = error.errors()
        names = " and ".join(dict.fromkeys(label(str(e["loc"][0])) for e in wrong))
        raise SettingsError(
            "; ".join(map(_wrong, wrong)), f"correct {names}, or take that out for the default"
        ) from error


def origins() -> dict[str, str]:
    """Say for each setting that is not a default where it was found. Call it before `load`."""
    found: dict[str, str] = {}
    file = os.environ.get(CONFIG_ENVIRONMENT)
    if file and Path(file).is_file():
        try:
            found.update(dict.fromkeys(tomllib.loads(Path(file).read_text()), f"file {file}"))
        except (ValueError, OSError):  # `load` says what is wrong with it
            found = {}
    given = {name.upper(): value for name, value in os.environ.items()}
    for field in Settings.model_fields:
        variable = PREFIX + field.upper()
        if f"{variable}_FILE" in given:
            found[field] = f"environment {variable}_FILE"
        if variable in given and (given[variable] or f"{variable}_FILE" not in given):
            found[field] = f"environment {variable}"
    return found


def without_password(url: str) -> str:
    """Give a database URL for the eyes of people: `stack status --json` has the whole of it."""
    parts = urlsplit(url)
    login, at, place = parts.netloc.rpartition("@")
    user, colon, _ = login.partition(":")
    if not colon and not parts.query:
        return url
    return urlunsplit(
        parts._replace(netloc=f"{user}{':***' if colon else ''}{at}{place}", query="")
    )


def label(name: str) -> str:
    """Name a setting as it was written: the variable, or the key in the TOML file."""
    origin = origins().get(name, "")
    return f"{name} in {origin}" if origin.startswith("file ") else PREFIX + name.upper()


def _wrong(error: Any) -> str:
    name = str(error["loc"][0])
    where = label(name)
    if error["type"] == "extra_forbidden":
        return f"{where}: there is no such setting{meant(name, Settings.model_fields)}"
    secret = name in ("database", *SECRETS)  # a URL has a password
    shown = "" if secret else f" is {str(error['input'])!r}"
    return f"{where}{shown}: {error['msg'].removeprefix('Value error, ')}"


def _from_file() -> dict[str, Any]:
    name = os.environ.get(CONFIG_ENVIRONMENT)
    if not name:
        return {}
    fix = f"correct that file, or {CONFIG_ENVIRONMENT}, which names it"
    try:
        return tomllib.loads(Path(name).read_text())
    except OSError as error:
        raise _unreadable(CONFIG_ENVIRONMENT, name, error) from error
    except ValueError as error:
        raise SettingsError(f"{CONFIG_ENVIRONMENT}={name} is not TOML: {error}", fix) from error


def _unreadable(variable: str, path: str, error: OSError) -> SettingsError:
    fix = f"name a file that can be read in {variable}, or unset it"
    return SettingsError(f"{variable}={path} cannot be read: {error.strerror}", fix)


def _secrets_from_files() -> None:
    """Let `…_FILE` name a file that holds a secret."""
    for name in ("FAREGATE_DATABASE", *(PREFIX + secret.upper() for secret in SECRETS)):
        path = os.environ.get(f"{name}_FILE")
        if path and not os.environ.get(name):
            try:
                os.environ[name] = Path(path).read_text().strip()
            except OSError as error:
                raise _unreadable(f"{name}_FILE", path, error) from error
