"""A Kafka that lets in only who it knows: TLS with a certificate of our own making, and SASL.

with secured(directory) as kafka:
    kafka.env()            # FAREGATE_* settings that come in by SASL_SSL
    kafka.env("MUTUAL")    # ... that come in by TLS, with a certificate of the client
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from unittest.mock import patch

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from faregate.runtime import stack
from faregate.runtime.stack import kafka as broker
from faregate.runtime.stack.processes import HOST, pick_port

USER, PASSWORD = "faregate-engine", "open-sesame-4711"
SALT_PASSWORD = "salted-0815"
PROTOCOLS = {"SECURE": "SASL_SSL", "MUTUAL": "SSL", "CLEAR": "SASL_PLAINTEXT"}
_JAAS = "org.apache.kafka.common.security.plain.PlainLoginModule required"
SALTED = ("SCRAM-SHA-256", "SCRAM-SHA-512")
_SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule required;"


@dataclass(frozen=True, slots=True)
class Papers:
    """PEM files: the authority, and a certificate with its key of the broker and of a client."""

    directory: Path

    def path(self, name: str) -> Path:
        return self.directory / f"{name}.pem"


@dataclass(frozen=True, slots=True)
class Secured:
    """Where it is. `plain` is a listener for tests that look at it from outside."""

    plain: str
    listeners: Mapping[str, str]
    papers: Papers

    def env(self, listener: str = "SECURE", **more: str) -> dict[str, str]:
        """Give the settings that come in; `kafka_sasl_password="x"` gives another value."""
        protocol = PROTOCOLS[listener]
        values = {"kafka": self.listeners[listener], "kafka_security_protocol": protocol}
        if protocol.startswith("SASL"):
            values |= {"kafka_sasl_username": USER, "kafka_sasl_password": PASSWORD}
        if protocol.endswith("SSL"):
            values["kafka_ca_file"] = str(self.papers.path("authority"))
        if listener == "MUTUAL":
            values["kafka_cert_file"] = str(self.papers.path("client"))
            values["kafka_key_file"] = str(self.papers.path("client-key"))
        return {f"FAREGATE_{k.upper()}": v for k, v in {**values, **more}.items() if v}

    def options(self) -> dict[str, Any]:
        """Give `kafka=` of the SDK for the listener SECURE, as an app would write it."""
        return {
            "security_protocol": "SASL_SSL",
            "ssl_context": ssl.create_default_context(cafile=self.papers.path("authority")),
            "sasl_mechanism": "PLAIN",
            "sasl_plain_username": USER,
            "sasl_plain_password": PASSWORD,
        }


@contextmanager
def secured(directory: Path) -> Iterator[Secured]:
    """Run a broker of the embedded stack with three more listeners, for the length of the block."""
    papers = make_papers(directory)
    ports: list[int] = []
    while len(ports) < len(PROTOCOLS):
        ports.append(pick_port(None, avoid=ports))
    listeners = {name: f"{HOST}:{port}" for name, port in zip(PROTOCOLS, ports, strict=True)}
    ours = broker.settings_for

    def with_more(*arguments: Any) -> dict[str, str]:
        values = ours(*arguments)
        more = "".join(f",{name}://{place}" for name, place in listeners.items())
        for key in ("listeners", "advertised.listeners"):
            values[key] += more
        return values

    with (
        patch.object(broker, "settings_for", with_more),
        stack.running(database=False, kafka_settings=_settings(papers)) as info,
    ):
        yield Secured(info.kafka, listeners, papers)


def _settings(papers: Papers) -> dict[str, str]:
    kinds = {"PLAINTEXT": "PLAINTEXT", "CONTROLLER": "PLAINTEXT", **PROTOCOLS}
    settings = {"listener.security.protocol.map": ",".join(f"{k}:{v}" for k, v in kinds.items())}
    for name, protocol in PROTOCOLS.items():
        of = f"listener.name.{name.lower()}."
        if protocol.startswith("SASL"):
            salted = SALTED if name == "CLEAR" else SALTED[1:]
            settings[of + "sasl.enabled.mechanisms"] = ",".join(["PLAIN", *salted])
            settings[of + "plain.sasl.jaas.config"] = f'{_JAAS} user_{USER}="{PASSWORD}";'
            for mechanism in salted:
                settings[of + mechanism.lower() + ".sasl.jaas.config"] = _SCRAM
        if protocol.endswith("SSL"):
            settings[of + "ssl.keystore.type"] = settings[of + "ssl.truststore.type"] = "PEM"
            settings[of + "ssl.keystore.location"] = str(papers.path("broker-both"))
            settings[of + "ssl.truststore.location"] = str(papers.path("authority"))
        settings[of + "ssl.client.auth"] = "required" if name == "MUTUAL" else "none"
    return settings


def make_papers(directory: Path) -> Papers:
    """Make an authority, and what it signed for a broker on this machine and for a client."""
    papers = Papers(directory)
    key = ec.generate_private_key(ec.SECP256R1())
    authority = _certificate("authority", key, "authority", key)
    papers.path("authority").write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    for name in ("broker", "client"):
        own = ec.generate_private_key(ec.SECP256R1())
        made = _certificate(name, own, "authority", key)
        certificate = made.public_bytes(serialization.Encoding.PEM)
        private = own.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        papers.path(name).write_bytes(certificate)
        papers.path(f"{name}-key").write_bytes(private)
        papers.path(f"{name}-both").write_bytes(private + certificate)
    return papers


def _certificate(
    name: str, key: ec.EllipticCurvePrivateKey, issuer: str, signer: ec.EllipticCurvePrivateKey
) -> x509.Certificate:
    now, ca = datetime.now(UTC), name == issuer
    names = [x509.DNSName("localhost"), x509.IPAddress(ip_address(HOST))]
    authority_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(authority_key, critical=False)
        .sign(signer, hashes.SHA256())
    )
