"""Settings of an outside Kafka with TLS or SASL: what clients get of them, and what is refused."""

from __future__ import annotations

import json
import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from tests.helpers.secured import Papers, make_papers

from faregate.runtime.cli import run_cli
from faregate.runtime.settings import Settings, SettingsError, load

LOGIN = {"SASL_USERNAME": "ada", "SASL_PASSWORD": "open-sesame"}


@pytest.fixture(autouse=True)
def nothing_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of the developer's own environment is in force."""
    for name in (*Settings.model_fields, "kafka_sasl_password_file", "config"):
        monkeypatch.delenv(f"FAREGATE_{name.upper()}", raising=False)
    monkeypatch.setenv("FAREGATE_HOME", str(tmp_path))
    monkeypatch.setenv("FAREGATE_KAFKA", "kafka.example:9093")


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    return make_papers(tmp_path_factory.mktemp("papers"))


def _set(monkeypatch: pytest.MonkeyPatch, **values: object) -> None:
    for name, value in values.items():
        monkeypatch.setenv(f"FAREGATE_KAFKA_{name}", str(value))


def test_nothing_is_said_to_a_kafka_without(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load().cluster("k:1").kafka == {}
    _set(monkeypatch, SECURITY_PROTOCOL="PLAINTEXT", SASL_USERNAME="", CA_FILE="")
    assert load().cluster("k:1").kafka == {}


def test_a_login_over_tls(monkeypatch: pytest.MonkeyPatch, papers: Papers) -> None:
    ca = papers.path("authority")
    _set(monkeypatch, SECURITY_PROTOCOL="SASL_SSL", SASL_MECHANISM="SCRAM-SHA-256", **LOGIN)
    _set(monkeypatch, CA_FILE=ca)
    options = dict(load().cluster("k:1").kafka)
    context = options.pop("ssl_context")
    assert options == {
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-256",
        "sasl_plain_username": "ada",
        "sasl_plain_password": "open-sesame",
    }
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname is True
    assert [dict(c["subject"][0])["commonName"] for c in context.get_ca_certs()] == ["authority"]


def test_the_systems_authorities_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    _set(monkeypatch, SECURITY_PROTOCOL="SSL")
    options = dict(load().kafka_options())
    default = ssl.create_default_context().cert_store_stats()
    assert options.pop("ssl_context").cert_store_stats() == default
    assert options == {"security_protocol": "SSL"}


def test_a_login_from_files_that_nobody_is_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = 'kafka_security_protocol = "SASL_PLAINTEXT"\nkafka_sasl_username = "ada"\n'
    (tmp_path / "f.toml").write_text(text)
    (tmp_path / "secret").write_text("open-sesame\n")
    monkeypatch.setenv("FAREGATE_CONFIG", str(tmp_path / "f.toml"))
    monkeypatch.setenv("FAREGATE_KAFKA_SASL_PASSWORD", "")  # undone afterwards
    monkeypatch.delenv("FAREGATE_KAFKA_SASL_PASSWORD")
    _set(monkeypatch, SASL_PASSWORD="", SASL_PASSWORD_FILE=tmp_path / "secret")
    assert run_cli(["settings", "--json"]) == 0
    shown = capsys.readouterr().out
    rows = {row["name"]: row for row in json.loads(shown)}
    assert rows["kafka_sasl_password"]["value"] == "**********"
    where = "environment FAREGATE_KAFKA_SASL_PASSWORD_FILE"
    assert rows["kafka_sasl_password"]["source"] == where
    cluster = load().cluster("k:1")
    assert cluster.kafka["sasl_plain_password"] == "open-sesame"
    assert cluster.kafka["sasl_mechanism"] == "PLAIN"
    assert "open-sesame" not in f"{shown} {cluster} {load()!r}"


@pytest.mark.parametrize(
    ("values", "message", "fix"),
    [
        (
            {"SASL_USERNAME": "ada"},
            (
                "FAREGATE_KAFKA_SASL_USERNAME is set, but FAREGATE_KAFKA_SECURITY_PROTOCOL is "
                "PLAINTEXT, which has no SASL"
            ),
            "set FAREGATE_KAFKA_SECURITY_PROTOCOL to SASL_SSL",
        ),
        (
            {"SECURITY_PROTOCOL": "SSL", "SASL_MECHANISM": "PLAIN"},
            "FAREGATE_KAFKA_SASL_MECHANISM is set, but",
            "or take FAREGATE_KAFKA_SASL_MECHANISM out",
        ),
        (
            {"SECURITY_PROTOCOL": "SASL_SSL"},
            "FAREGATE_KAFKA_SASL_USERNAME and FAREGATE_KAFKA_SASL_PASSWORD are not set",
            "set FAREGATE_KAFKA_SASL_USERNAME and FAREGATE_KAFKA_SASL_PASSWORD to what",
        ),
        (
            {"SECURITY_PROTOCOL": "SASL_PLAINTEXT", "SASL_USERNAME": "ada"},
            "but FAREGATE_KAFKA_SASL_PASSWORD is not set",
            "set FAREGATE_KAFKA_SASL_PASSWORD to what",
        ),
        (
            {"SECURITY_PROTOCOL": "SASL_PLAINTEXT", "CA_FILE": "/ca.pem", **LOGIN},
            (
                "FAREGATE_KAFKA_CA_FILE is set, but FAREGATE_KAFKA_SECURITY_PROTOCOL is "
                "SASL_PLAINTEXT, which has no TLS"
            ),
            "set FAREGATE_KAFKA_SECURITY_PROTOCOL to SASL_SSL",
        ),
        (
            {"SECURITY_PROTOCOL": "SSL", "CERT_FILE": "/no/such.pem"},
            "FAREGATE_KAFKA_CERT_FILE is /no/such.pem, which cannot be read: No such file",
            "name a file that can be read in FAREGATE_KAFKA_CERT_FILE",
        ),
        (
            {"SECURITY_PROTOCOL": "SSL", "KEY_FILE": __file__},
            "FAREGATE_KAFKA_KEY_FILE is set, but FAREGATE_KAFKA_CERT_FILE is not",
            "set FAREGATE_KAFKA_CERT_FILE",
        ),
        (
            {"SECURITY_PROTOCOL": "SSL", "CA_FILE": __file__},
            f"FAREGATE_KAFKA_CA_FILE is {__file__}: there is no certificate in it",
            "name a file in PEM",
        ),
        (
            {"SECURITY_PROTOCOL": "TLS"},
            "FAREGATE_KAFKA_SECURITY_PROTOCOL is 'TLS': Input should be 'PLAINTEXT', 'SSL'",
            "correct FAREGATE_KAFKA_SECURITY_PROTOCOL",
        ),
    ],
)
def test_what_does_not_fit_together(
    monkeypatch: pytest.MonkeyPatch, values: dict[str, str], message: str, fix: str
) -> None:
    _set(monkeypatch, **values)
    with pytest.raises(SettingsError) as refused:
        load()
    assert message in str(refused.value)
    assert fix in refused.value.fix
    assert "open-sesame" not in f"{refused.value} {refused.value.fix}"


def test_the_embedded_kafka_has_none_of_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("FAREGATE_KAFKA")
    _set(monkeypatch, SECURITY_PROTOCOL="SSL")
    assert run_cli(["topics", "apply"]) == 2
    said = capsys.readouterr().err
    assert "FAREGATE_KAFKA_SECURITY_PROTOCOL is set, but FAREGATE_KAFKA is not" in said
    assert "set FAREGATE_KAFKA to your servers, or take FAREGATE_KAFKA_SECURITY_PROTOCOL" in said


@pytest.mark.parametrize(
    ("cert", "key", "names", "why"),
    [
        ("client", "broker-key", "CERT", "it is not the certificate of the key"),
        ("client", "authority", "KEY", "there is no key in it"),
        ("client-key", "client-key", "CERT", "there is no certificate in it"),
        ("client", "", "CERT", "it must have a certificate and its key"),
        ("client", "locked", "KEY", "the key has a passphrase"),
        ("client-both", "", "", ""),
        ("client", "client-key", "", ""),
    ],
)
def test_certificate_and_key(
    monkeypatch: pytest.MonkeyPatch, papers: Papers, cert: str, key: str, names: str, why: str
) -> None:
    own = serialization.load_pem_private_key(papers.path("client-key").read_bytes(), None)
    locked = own.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    papers.path("locked").write_bytes(locked)
    _set(monkeypatch, SECURITY_PROTOCOL="SSL", CERT_FILE=papers.path(cert))
    _set(monkeypatch, KEY_FILE=papers.path(key) if key else "")
    if not why:
        assert load().kafka_options()["security_protocol"] == "SSL"
        return
    with pytest.raises(SettingsError) as refused:
        load()
    assert str(refused.value).startswith(f"FAREGATE_KAFKA_{names}_FILE is {papers.directory}")
    assert why in str(refused.value)
