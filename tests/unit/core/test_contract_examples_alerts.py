"""The contract's alerts: low and exhausted, once per crossing, armed again by what comes in."""

import pytest
from tests.unit.core.saying import give, micro, use
from tests.unit.core.twin import DEFAULT_BOOK, Twin, key

from faregate.ledger.core import Rules


class TestAlerts:
    @pytest.fixture
    def twin(self) -> Twin:
        twin = Twin(Rules(low_micro=micro(3)))
        twin.apply_prices(DEFAULT_BOOK)
        return twin

    def spend(self, twin: Twin, units: int) -> str | None:
        use(twin, str(key("u", len(twin.entries))), units, pipeline_id=None)
        return twin.entries[-1].alert

    def test_low_is_raised_as_the_threshold_is_crossed_and_once(self, twin: Twin) -> None:
        give(twin, "user:ann", 6)
        raised = [self.spend(twin, 1) for _ in range(5)]
        assert raised == [None, None, "low:3000000", None, None]

    def test_exhausted_is_raised_once_and_alone_when_low_was(self, twin: Twin) -> None:
        give(twin, "user:ann", 4)
        assert [self.spend(twin, n) for n in (2, 2, 2)] == ["low:3000000", "exhausted", None]

    def test_both_at_once(self, twin: Twin) -> None:
        give(twin, "user:ann", 4)
        assert self.spend(twin, 9) == "low:3000000,exhausted"

    def test_without_a_threshold_only_exhausted(self) -> None:
        twin = Twin()
        twin.apply_prices(DEFAULT_BOOK)
        give(twin, "user:ann", 4)
        assert self.spend(twin, 4) == "exhausted"

    @pytest.mark.parametrize("kind", ["purchase", "bonus"])
    def test_a_grant_arms_again(self, twin: Twin, kind: str) -> None:
        give(twin, "user:ann", 4)
        self.spend(twin, 2)
        give(twin, "user:ann", 2, kind=kind)
        assert self.spend(twin, 1) == "low:3000000"

    def test_what_comes_free_again_does_not(self, twin: Twin) -> None:
        give(twin, "user:ann", 46)
        assert twin.do(twin.make.request()).result == "initiated"
        assert twin.entries[-1].alert == "low:3000000"
        twin.do(twin.make.finished(usage_events=0))
        assert self.spend(twin, 44) is None

    def test_a_threshold_in_percent_is_of_what_there_was_after_the_newest_grant(
        self, twin: Twin
    ) -> None:
        twin.do(twin.make.alerts("user:ann", 0, 20))
        give(twin, "user:ann", 40)
        self.spend(twin, 30)
        give(twin, "user:ann", 40)
        assert [self.spend(twin, n) for n in (39, 1)] == [None, "low:10000000"]

    def test_the_higher_of_the_two_thresholds_counts(self, twin: Twin) -> None:
        twin.do(twin.make.alerts("user:ann", micro(5), 20))
        give(twin, "user:ann", 20)
        assert self.spend(twin, 15) == "low:5000000"
        give(twin, "user:ann", 95)
        assert self.spend(twin, 80) == "low:20000000"

    def test_of_ones_own_or_as_the_settings_say(self, twin: Twin) -> None:
        twin.do(twin.make.alerts("user:ann", micro(1), None))
        give(twin, "user:ann", 4)
        assert [self.spend(twin, n) for n in (2, 1)] == [None, "low:1000000"]
        twin.do(twin.make.alerts("user:ann", None, None))
        give(twin, "user:ann", 3)
        assert self.spend(twin, 1) == "low:3000000"

    def test_new_thresholds_are_armed(self, twin: Twin) -> None:
        give(twin, "user:ann", 4)
        self.spend(twin, 1)
        twin.do(twin.make.alerts("user:ann", micro(2), None))
        assert self.spend(twin, 1) == "low:2000000"

    def test_an_org_raises_them_too_and_expiry_as_well(self, twin: Twin) -> None:
        give(twin, "org:acme", 4)
        twin.do(twin.make.set_balance("org:acme", 0))
        assert twin.entries[-1].alert == "low:3000000,exhausted"
