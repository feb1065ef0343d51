"""What no tracked file may say: it would tie the project to one machine, host or person."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.tidy.repository import ROOT, text_files

# `docker.io` is also a Debian package: it is a host only where a path follows.
REGISTRY = re.compile(
    r"\b(?:pypi\.org|pythonhosted\.org|npmjs\.(?:org|com)|crates\.io|maven\.org"
    r"|maven\.apache\.org/maven2|docker\.io/|hub\.docker\.com|ghcr\.io|quay\.io|gcr\.io)",
    re.IGNORECASE,
)
# A container's own user is nobody's home.
HOME = re.compile(r"/(?:home/(?!faregate\b)[a-z_]|Users/[A-Za-z]|root/[\w.])")
E_MAIL = re.compile(r"[\w.+-]+@(?:[\w-]+\.)+[a-z]{2,}\b", re.IGNORECASE)
# Domains that are reserved for examples (RFC 2606, RFC 6761), so nobody lives there.
NOBODY = re.compile(r"@(?:[\w-]+\.)*(?:example(?:\.(?:com|org|net))?|test|invalid|localhost)$")


def places(pattern: re.Pattern[str]) -> Iterator[tuple[str, str]]:
    """Yield ("file:line", what matched) for every match in every text file."""
    for path, text in text_files():
        for number, line in enumerate(text.splitlines(), start=1):
            for match in pattern.finditer(line):
                yield f"{path}:{number}", match.group()


def test_no_file_names_a_registry_host() -> None:
    assert list(places(REGISTRY)) == [], "the client's configuration says where packages are"


def test_no_file_names_somebodys_home() -> None:
    assert list(places(HOME)) == []


@pytest.mark.skipif(len(ROOT.parts) < 3, reason="the checkout is a top-level folder")
def test_no_file_names_where_this_checkout_is() -> None:
    assert list(places(re.compile(rf"{re.escape(str(ROOT))}\b"))) == []


def test_no_file_holds_a_persons_address() -> None:
    assert [found for found in places(E_MAIL) if not NOBODY.search(found[1].lower())] == []


@pytest.mark.parametrize(
    ("pattern", "caught", "allowed"),
    [
        (REGISTRY, "https://quay" + ".io/x", "apt-get install docker.io"),
        (HOME, str(Path("/", "home", "jo", "x")), "WORKDIR /home/faregate"),
        (E_MAIL, "jo" + "@" + "firm.com", "postgresql://app:secret@127.0.0.1:5432/x"),
    ],
)
def test_the_patterns_catch_what_they_are_for(
    pattern: re.Pattern[str], caught: str, allowed: str
) -> None:
    assert pattern.search(caught)
    assert not pattern.search(allowed)


@pytest.mark.parametrize("address", ["a@b.example", "jo@example.com", "x@y.test"])
def test_addresses_for_examples_are_nobodys(address: str) -> None:
    assert NOBODY.search(address)
