"""The rules of `attribution`, without Faust."""

import random

from faregate.streams.rules import attribution
from faregate.streams.rules.attribution import Window, counted

NAMES = {"users": "ada", "models": None, "phases": "nlp"}


def test_charges_are_attributed_once() -> None:
    window = counted(None, 4, 100, NAMES)
    assert window == {
        "seq": 4, "total": 100, "n": 1,
        "users": {"ada": [100, 1]}, "models": {}, "phases": {"nlp": [100, 1]},
    }  # fmt: skip
    assert counted(window, 4, 100, NAMES) is window
    assert counted(window, 3, 100, NAMES) is window
    assert counted(window, 6, 50, NAMES)["users"] == {"ada": [150, 2]}


def test_the_names_are_bounded_and_the_sum_stays() -> None:
    window: Window | None = None
    dice = random.Random(1)
    charged = 0
    for sequence in range(1, 2000):
        micro = dice.randrange(1, 1000)
        charged += micro
        names = {"users": f"u{dice.randrange(500)}", "models": "m", "phases": None}
        window = counted(window, sequence, micro, names)
    assert window is not None
    assert window["total"] == charged
    assert len(window["users"]) == attribution.KEPT + 1
    assert sum(micro for micro, _ in window["users"].values()) == charged
    assert sum(n for _, n in window["users"].values()) == window["n"] == 1999
    assert attribution.OTHER in window["users"]


def test_the_largest_are_listed_and_the_rest_is_summed() -> None:
    shares = {"a": [5, 1], "b": [9, 2], "c": [5, 1], "d": [1, 1], attribution.OTHER: [50, 9]}
    assert attribution.top(shares, 2) == ([("b", 9, 2), ("a", 5, 1)], 5 + 1 + 50)
    assert attribution.top(shares, 9)[1] == 50


def test_hours_and_days_begin_in_utc() -> None:
    assert attribution.start_of(90_000.5, "day") == 86_400
    assert attribution.start_of(90_000.5, "hour") == 90_000
