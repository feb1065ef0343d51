"""Credits, organizations and prices on the command line: what is refused before any server."""

from __future__ import annotations

import json

import pytest

from faregate.runtime.cli import run_cli
from faregate.runtime.cli.acting import me, org_argument, user_argument
from faregate.runtime.cli.base import BadUsage


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("credits grant org:a 1 --expires-at 2030-01-01 --expires-in-days 3", "either"),
        ("credits grant org:a 1 --expires-at soon", "is not a time"),
        ("credits refund org:a", "--usage or by --entry"),
        ("credits refund org:a --usage u --entry 1", "--usage or by --entry"),
        ("credits refund org:a --entry 9223372036854775808", "--entry"),
        ("credits set user:a\u202eb 5", "an id has 1 to 200 characters"),
        ("credits set user:\udcff 5", "it is not UTF-8"),
        ("orgs policy a\u202eb pool", "an id has 1 to 200 characters"),
        ("credits tier user:a --now", "--now goes with"),
        ("credits quota user:a 5 --as-tier", "either"),
        ("credits quota user:a -- -5", "CALLS"),
        ("credits alerts org:a --low 5 --as-settings", "--as-settings goes without"),
        ("credits alerts org:a --percent 101", "--percent"),
        ("credits unlock org:a x", "names no user"),
        ("orgs policy acme poool", "did you mean pool?"),
        ("orgs policy user:ada", "names no org"),
        ("orgs member acme ada --role boss", "--role must be"),
        ("orgs allocate acme org:bob 5", "names no user"),
        ("orgs allocate acme bob -5", "is not an amount"),
        ("orgs usage acme --group-by team", "--group-by must be"),
        ("prices increment 0.05", "0.01, 0.1, 1"),
        ("prices increment tenth", "0.01, 0.1, 1"),
        ("prices explain gpt-4 --items 2 --input-tokens 5", "--input-tokens"),
        ("audit --account acme", "org:<id> or user:<id>"),
    ],
)
def test_wrong_usage_exits_2_and_says_what_to_write(
    words: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before, _, after = words.partition(" -- ")
    tail = ["--", after] if after else []
    assert run_cli([*before.split(), "--json", *tail]) == 2
    answer = json.loads(capsys.readouterr().out)
    assert said in answer["message"]
    assert answer["error"] == "usage"


@pytest.mark.parametrize("text", ["acme", "org:acme"])
def test_an_org_can_be_named_with_and_without_its_kind(text: str) -> None:
    assert org_argument(text) == "org:acme"


def test_an_id_may_have_a_colon_but_not_another_kind() -> None:
    assert user_argument("auth0:1234") == "user:auth0:1234"
    for wrong in ("org:acme", "user:", ""):
        with pytest.raises(BadUsage):
            user_argument(wrong)


def test_who_acts_has_a_name_even_where_the_system_knows_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unknown() -> str:
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr("getpass.getuser", unknown)
    assert me().startswith("uid ")
