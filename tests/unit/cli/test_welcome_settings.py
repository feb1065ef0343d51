"""Settings of provisioning: what they may be, what is refused and how, and what rules they make."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from faregate.ledger.core import Welcome
from faregate.runtime.cli import run_cli
from faregate.runtime.settings import Settings, SettingsError, load


@pytest.fixture(autouse=True)
def nothing_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of the developer's own environment is in force."""
    for name in Settings.model_fields:
        monkeypatch.delenv(f"FAREGATE_{name.upper()}", raising=False)
    monkeypatch.delenv("FAREGATE_CONFIG", raising=False)
    monkeypatch.setenv("FAREGATE_HOME", str(tmp_path))


def test_by_default_five_credits_for_thirty_days_and_a_warning_at_a_fifth() -> None:
    rules = load().rules()
    assert (rules.provisioning, rules.welcome_micro) == ("auto", 5_000_000)
    assert rules.welcome == Welcome(days=30)
    assert (rules.low_micro, rules.low_percent) == (0, 20)


def test_the_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "WELCOME_CREDITS": "4.5",
        "WELCOME_DAYS": "0",
        "WELCOME_VERIFIED_ONLY": "true",
        "WELCOME_BY_REFERRAL": '{"spring": 8.25}',
        "REFERRAL_BONUS_CREDITS": "0.000001",
        "WELCOME_ARMS": '{"more": 7, "less": 4}',
        "WELCOME_MILESTONES": '{"first_pipeline": 2, "email_verified": 2}',
        "LOW_BALANCE_CREDITS": "1",
        "LOW_BALANCE_PERCENT": "0",
    }.items():
        monkeypatch.setenv(f"FAREGATE_{name}", value)
    rules = load().rules()
    assert rules.welcome_micro == 4_500_000
    assert rules.welcome == Welcome(
        days=None,
        verified_only=True,
        by_referral=(("spring", 8_250_000),),
        referral_bonus=1,
        arms=(("less", 4_000_000), ("more", 7_000_000)),
        milestones=(("email_verified", 2_000_000), ("first_pipeline", 2_000_000)),
    )
    assert (rules.low_micro, rules.low_percent) == (1_000_000, 0)


def test_the_file_is_read_and_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "welcome_credits = 4\nwelcome_days = 1.5\n[welcome_arms]\nb = 3\na = 4.5\n"
    (tmp_path / "f.toml").write_text(text)
    monkeypatch.setenv("FAREGATE_CONFIG", str(tmp_path / "f.toml"))
    welcome = load().rules().welcome
    assert (welcome.days, welcome.arms) == (1.5, (("a", 4_500_000), ("b", 3_000_000)))
    assert run_cli(["settings"]) == 0
    assert "'a': 4.5" in capsys.readouterr().out
    assert run_cli(["settings", "--json"]) == 0
    rows = {row["name"]: row["value"] for row in json.loads(capsys.readouterr().out)}
    assert rows["welcome_arms"] == {"a": 4.5, "b": 3}
    assert rows["welcome_milestones"] == {}


@pytest.mark.parametrize(
    "name", ["WELCOME_CREDITS", "REFERRAL_BONUS_CREDITS", "LOW_BALANCE_CREDITS"]
)
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("true", "not of type bool"),
        ("null", "must be a number such as 12.5"),
        ("NaN", "not NaN or infinity"),
        ("Infinity", "not NaN or infinity"),
        ('"5"', "not of type str"),
        ("five", "must be a number such as 12.5"),
        ("", "must be a number such as 12.5"),
        ("-1", "0 or more"),
        ("0.0000001", "at most 6 decimals"),
        ("1000000000", "below 1,000,000,000"),
        ("[5]", "not of type list"),
    ],
)
def test_an_amount_that_is_none_is_refused_by_name(
    name: str, text: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"FAREGATE_{name}", text)
    with pytest.raises(SettingsError, match=said) as refused:
        load()
    assert f"FAREGATE_{name}" in str(refused.value)
    assert refused.value.fix


@pytest.mark.parametrize("name", ["WELCOME_ARMS", "WELCOME_BY_REFERRAL", "WELCOME_MILESTONES"])
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a=5", "give credits by name"),
        ("[5]", "give credits by name"),
        ('{"a": "5"}', "a: the amount must be a number"),
        ('{"a": true}', "a: the amount must be a number"),
        ('{"a": NaN}', "a: the amount must be a finite number"),
        ('{"a": 0}', "a: the amount must be more than 0"),
        ('{"": 1}', "is not a name"),
        ('{"a\\u0000": 1}', "is not a name"),
    ],
)
def test_a_map_of_amounts_that_is_none_is_refused_by_name(
    name: str, text: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"FAREGATE_{name}", text)
    with pytest.raises(SettingsError, match=said) as refused:
        load()
    assert f"FAREGATE_{name}" in str(refused.value)


def test_a_string_in_the_file_is_no_amount(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "f.toml").write_text('welcome_credits = "5"')
    monkeypatch.setenv("FAREGATE_CONFIG", str(tmp_path / "f.toml"))
    with pytest.raises(SettingsError, match=r"welcome_credits in file .* not of type str"):
        load()


@pytest.mark.parametrize(
    ("settings", "said", "fix"),
    [
        (
            {"welcome_milestones": {"a": 3, "b": 2.5}},
            "hold back 5.5 credits",
            "sum up to 5 or less",
        ),
        (
            {"welcome_milestones": {"a": 3}, "welcome_by_referral": {"spring": 2}},
            "the smallest welcome grant is 2",
            "sum up to 2 or less",
        ),
        (
            {"welcome_milestones": {"a": 3}, "welcome_arms": {"less": 1, "more": 9}},
            "the smallest welcome grant is 1",
            "sum up to 1 or less",
        ),
        ({"welcome_credits": 0, "welcome_arms": {"a": 1}}, "nobody is welcomed", "above 0"),
        ({"welcome_credits": 0, "referral_bonus_credits": 1}, "nobody is welcomed", "above 0"),
    ],
)
def test_settings_that_cannot_go_together_say_what_to_do(
    settings: dict[str, object], said: str, fix: str
) -> None:
    with pytest.raises(SettingsError, match=said) as refused:
        Settings.model_validate(settings)
    assert fix in refused.value.fix


def test_nobody_is_welcomed_where_the_welcome_is_nothing() -> None:
    assert Settings(welcome_credits=0).rules().welcome_micro == 0
