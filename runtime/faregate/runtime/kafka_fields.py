"""The settings of an outside Kafka that wants TLS or SASL; part of `Settings`."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

SECRETS = ("kafka_sasl_password",)
"""Those that may stand in a file named by `FAREGATE_…_FILE`, and are never shown."""

_LOGIN = ("kafka_sasl_username", "kafka_sasl_password")
_FILES = ("kafka_ca_file", "kafka_cert_file", "kafka_key_file")

Fault = tuple[str, str]
"""What is wrong, and what to do."""
Label = Callable[[str], str]


class KafkaFields(BaseSettings):
    """What can be set about how we come into an outside Kafka."""

    model_config = SettingsConfigDict(env_prefix="FAREGATE_", extra="forbid", frozen=True)

    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="What the outside Kafka speaks: TLS (SSL), with SASL or without."
    )
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "PLAIN", description="How SASL checks the password."
    )
    kafka_sasl_username: str | None = Field(None, description="The user that SASL knows.")
    kafka_sasl_password: SecretStr | None = Field(None, description="Its password.")
    kafka_ca_file: Path | None = Field(
        None, description="Authorities whose certificates are trusted (PEM); the system's."
    )
    kafka_cert_file: Path | None = Field(
        None, description="Our own certificate (PEM), where Kafka wants one."
    )
    kafka_key_file: Path | None = Field(
        None, description="The key of that (PEM), unless it is in the same file."
    )

    @field_validator(*_FILES, "kafka_sasl_username", "kafka_sasl_password", mode="before")
    @classmethod
    def _empty_is_unset(cls, value: object) -> object:
        return None if value == "" else value

    def kafka_fault(self, servers: str | None, label: Label) -> Fault | None:
        """Say what does not fit together; None where everything does. `label` names a setting."""
        protocol = self.kafka_security_protocol
        said = [name for name in (*_LOGIN, *_FILES) if getattr(self, name)]
        if "kafka_sasl_mechanism" in self.model_fields_set:
            said.append("kafka_sasl_mechanism")
        if protocol != "PLAINTEXT":
            said.insert(0, "kafka_security_protocol")
        if said and not servers:
            unset = f"{label('kafka')} is not, and the embedded Kafka has neither TLS nor SASL"
            fix = f"set {label('kafka')} to your servers, or take {_listed(said, label)} out"
            return f"{_listed(said, label)} {_is(said)} set, but {unset}", fix
        sasl, tls = protocol.startswith("SASL"), protocol.endswith("SSL")
        of_sasl = [name for name in said if "_sasl_" in name]
        if of_sasl and not sasl:
            return self._without("SASL", "SASL_SSL (SASL_PLAINTEXT without TLS)", of_sasl, label)
        of_tls = [name for name in said if name in _FILES]
        if of_tls and not tls:
            return self._without("TLS", "SASL_SSL" if sasl else "SSL", of_tls, label)
        absent = [name for name in _LOGIN if sasl and not getattr(self, name)]
        if absent:
            whose = f"{label('kafka_security_protocol')} is {protocol}"
            fix = f"set {_listed(absent, label)} to what that Kafka knows you by"
            return f"{whose}, but {_listed(absent, label)} {_is(absent)} not set", fix
        return self._fault_of_files(label) if tls else None

    def kafka_options(self) -> dict[str, Any]:
        """Give what aiokafka's clients take beside the servers. Never log it: it has the password."""
        protocol = self.kafka_security_protocol
        options: dict[str, Any] = {}
        if protocol != "PLAINTEXT":
            options["security_protocol"] = protocol
        if protocol.endswith("SSL"):
            options["ssl_context"] = _context(
                self.kafka_ca_file, self.kafka_cert_file, self.kafka_key_file
            )
        if protocol.startswith("SASL") and self.kafka_sasl_password is not None:
            options["sasl_mechanism"] = self.kafka_sasl_mechanism
            options["sasl_plain_username"] = self.kafka_sasl_username
            options["sasl_plain_password"] = self.kafka_sasl_password.get_secret_value()
        return options

    def _without(self, what: str, wanted: str, said: list[str], label: Label) -> Fault:
        protocol = label("kafka_security_protocol")
        message = f"{_listed(said, label)} {_is(said)} set, but {protocol} is "
        return (
            f"{message}{self.kafka_security_protocol}, which has no {what}",
            f"set {protocol} to {wanted}, or take {_listed(said, label)} out",
        )

    def _fault_of_files(self, label: Label) -> Fault | None:
        for name in _FILES:
            path: Path | None = getattr(self, name)
            try:
                if path is not None:
                    path.read_bytes()
            except OSError as error:
                fix = f"name a file that can be read in {label(name)}, or unset it"
                return f"{label(name)} is {path}, which cannot be read: {error.strerror}", fix
        if self.kafka_key_file and not self.kafka_cert_file:
            return (
                f"{label('kafka_key_file')} is set, but {label('kafka_cert_file')} is not",
                f"set {label('kafka_cert_file')} to the certificate of that key",
            )
        try:
            _context(self.kafka_ca_file, self.kafka_cert_file, self.kafka_key_file)
        except UnusableFileError as error:
            fix = f"name a file in PEM (-----BEGIN …) in {label(error.name)}"
            return f"{label(error.name)} is {getattr(self, error.name)}: {error}", fix
        return None


class UnusableFileError(Exception):
    """A file that holds no such certificate or key; `name` is the setting."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


@lru_cache(maxsize=8)
def _context(ca: Path | None, cert: Path | None, key: Path | None) -> ssl.SSLContext:
    """Make what TLS is spoken with, once. Raises UnusableFileError."""
    try:
        context = ssl.create_default_context(cafile=ca)
    except ssl.SSLError as error:
        raise UnusableFileError("kafka_ca_file", "there is no certificate in it") from error
    if cert is not None:
        try:
            context.load_cert_chain(cert, key, password=_nobody_to_ask)
        except ssl.SSLError as error:
            why = "there is no certificate in it"
            if error.reason == "KEY_VALUES_MISMATCH":
                why = "it is not the certificate of the key"
            elif key is not None and _has_certificate(cert):
                raise UnusableFileError("kafka_key_file", "there is no key in it") from error
            elif key is None:
                why = "it must have a certificate and its key, or the key must have its own file"
            raise UnusableFileError("kafka_cert_file", why) from error
    return context


def _has_certificate(path: Path) -> bool:
    return b"-----BEGIN CERTIFICATE-----" in path.read_bytes()


def _nobody_to_ask() -> str:
    """Refuse a key with a passphrase: OpenSSL would ask for it on the terminal."""
    raise UnusableFileError("kafka_key_file", "the key has a passphrase; it must have none")


def _listed(names: list[str], label: Label) -> str:
    return " and ".join(map(label, names))


def _is(names: list[str]) -> str:
    return "is" if len(names) == 1 else "are"
