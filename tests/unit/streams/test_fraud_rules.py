"""The rules of `fraud`, without Faust."""

from faregate.streams.rules import fraud


def test_what_a_registration_says_about_groups() -> None:
    assert fraud.domain_of("Ada@Example.COM") == "example.com"
    assert [fraud.domain_of(e) for e in (None, "", "ada", "ada@")] == [None] * 4
    assert fraud.user_of("user:bob") == "user:bob"
    assert [fraud.user_of(r) for r in (None, "spring-sale", "user:")] == [None] * 3


def test_registrations_count_once_and_what_is_kept_is_bounded() -> None:
    group = fraud.joined(None, "1", "user:a")
    assert fraud.joined(group, "1", "user:a") is group
    for number in range(400):
        group = fraud.joined(group, f"x{number}", f"user:{number}")
    assert group["n"] == 401
    assert len(group["users"]) == fraud.LISTED
    assert len(group["ids"]) == fraud.REMEMBERED


def test_many_registrations_are_said_at_the_limit_and_then_seldom() -> None:
    said = [n for n in range(1, 60) if fraud.is_worth_saying(n, 20)]
    assert said == [21, 31, 41, 51]
    assert [n for n in range(1, 5) if fraud.is_worth_saying(n, 1)] == [2, 3, 4]


def test_a_trial_that_is_drained_at_once_is_said_once() -> None:
    trial = fraud.began(1, 5_000_000, 100.0)

    def spent(trial: list[object], sequence: int, charged: int, at: float = 200.0):  # type: ignore[no-untyped-def]
        return fraud.spent(trial, sequence, charged, at, within_s=600, percent=90)

    trial, said = spent(trial, 2, 4_000_000)
    assert not said
    assert spent(trial, 2, 4_000_000) == (trial, False)  # a repeat
    trial, said = spent(trial, 3, 500_000)
    assert said
    assert spent(trial, 4, 500_000)[1] is False
    assert spent(trial, 5, 500_000, at=701.0) == (None, False)  # no longer watched


def test_rings_are_found_step_by_step_and_never_walked_for_ever() -> None:
    assert fraud.ring(["a"], None) == (None, None)
    assert fraud.ring(["a"], "b") == (None, ["a", "b"])
    assert fraud.ring(["a", "b"], "a") == (["a", "b"], None)
    assert fraud.ring(["a", "b", "c"], "b") == (None, None)  # theirs, and not a's
    longest = [str(n) for n in range(fraud.LONGEST_RING)]
    assert fraud.ring(longest, "x") == (None, None)
    assert fraud.ring(longest, "0") == (longest, None)


def test_a_case_has_one_name() -> None:
    assert fraud.case_id("referral_ring", "a", "b") == fraud.case_id("referral_ring", "a", "b")
    assert fraud.case_id("referral_ring", "a", "b") != fraud.case_id("referral_ring", "b", "a")
