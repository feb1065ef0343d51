"""The rules of `denials`, without Faust."""

from typing import Any

from faregate.streams.rules import denials


def many(n: int, pipeline: str = "nlp") -> dict[str, Any]:
    window: dict[str, Any] | None = None
    for number in range(n):
        window = denials.counted(window, f"id-{number}", "quota_exceeded", pipeline)
    assert window is not None
    return window


def test_denials_are_counted_by_reason_and_pipeline() -> None:
    window = denials.counted(many(2), "x", "insufficient_credits", "cj_assessment")
    assert window["n"] == 3
    assert window["reasons"] == {"quota_exceeded": 2, "insufficient_credits": 1}
    assert window["pipelines"] == {"nlp": 2, "cj_assessment": 1}


def test_a_repeat_changes_nothing_and_what_is_remembered_is_bounded() -> None:
    window = many(denials.REMEMBERED + 10)
    assert denials.counted(window, f"id-{denials.REMEMBERED}", "quota_exceeded", "nlp") is window
    assert len(window["ids"]) == denials.REMEMBERED
    again = denials.counted(window, "id-0", "quota_exceeded", "nlp")  # forgotten: it counts again
    assert again["n"] == window["n"] + 1


def test_the_names_in_a_window_are_bounded() -> None:
    window = many(1)
    for number in range(denials.NAMES_KEPT + 20):
        window = denials.counted(window, f"p{number}", "quota_exceeded", f"pipeline-{number}")
    assert len(window["pipelines"]) == denials.NAMES_KEPT + 1
    assert window["pipelines"][denials.OTHER] == 21
    assert sum(window["pipelines"].values()) == window["n"]


def test_identities_are_hashed_with_their_source() -> None:
    assert denials.short_id("a", "1") != denials.short_id("b", "1")
    assert len(denials.short_id("a", "1")) == 12


def test_the_baseline_follows_and_fades() -> None:
    average = 0.0
    for _ in range(50):
        average = denials.baseline_after(average, 10, 0)
    assert 9.9 < average <= 10
    assert denials.baseline_after(average, 10, 3) < 6
    assert denials.baseline_after(average, 10, denials.FORGETS_AFTER) == 0


def test_a_spike_is_far_above_the_own_baseline() -> None:
    def spike(n: int, baseline: float) -> float | None:
        return denials.spike(n, baseline, factor=3, least=5)

    assert spike(12, 2) == 6
    assert spike(12, 5) is None  # usual for them
    assert spike(15, 5) == 3
    assert spike(4, 0) is None  # too few
    assert spike(5, 0) == 5  # nobody who is never denied
