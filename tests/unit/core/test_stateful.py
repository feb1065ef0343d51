"""Given any history of commands, the core and the model of the contract never differ."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from tests.unit.core import histories, histories_acts
from tests.unit.core.histories import Make
from tests.unit.core.twin import MICRO, SUBJECTS, Twin

from faregate.ledger.core import Command, Rules


class Ledger(RuleBasedStateMachine):
    """Two ledgers and a clock. `Twin.submit` compares after every step."""

    def __init__(self) -> None:
        super().__init__()
        self.twin = Twin()
        self.sent: list[Command] = []

    @initialize(rules=histories.rules, priced=st.integers(0, 9), filled=st.integers(0, 3))
    def begin(self, rules: Rules, priced: int, filled: int) -> None:
        self.twin = Twin(rules)
        if priced != 9:
            since = self.twin.now - timedelta(days=20)
            self.twin.apply_prices(histories.FIRST_BOOK, since)
        if filled != 3:
            make = self.twin.make
            self.submit([make.grant(s, 60 * MICRO) for s in SUBJECTS[:-1]])

    def submit(self, commands: list[Command]) -> None:
        self.sent += commands
        for command in commands:
            note(f"{self.twin.now:%d %H:%M:%S} {command}")
        self.twin.submit(*commands)

    def made(self, *makes: Make) -> list[Command]:
        return [c for c in (make(self.twin) for make in makes) if c is not None]

    @rule(make=histories.requests())
    def request(self, make: Make) -> None:
        self.submit(self.made(make))

    @rule(make=histories.usages())
    def use(self, make: Make) -> None:
        self.submit(self.made(make))

    @rule(
        asked=histories.requests(),
        makes=st.lists(
            histories.usages() | histories.finishes() | histories.completions(), max_size=4
        ),
    )
    def run(self, asked: Make, makes: list[Make]) -> None:
        self.submit(self.made(asked))
        for make in makes:
            self.submit(self.made(make))

    @rule(make=histories_acts.ordinary)
    def one(self, make: Make) -> None:
        self.submit(self.made(make))

    @rule(makes=st.lists(histories_acts.ordinary, min_size=2, max_size=6))
    def batch(self, makes: list[Make]) -> None:
        self.submit(self.made(*makes))

    @rule(
        again=st.lists(
            st.tuples(st.integers(0, 99), st.sampled_from(["same", "same", "id", "content"])),
            min_size=1,
            max_size=3,
        ),
        between=histories_acts.ordinary,
    )
    def send_again(self, again: list[tuple[int, str]], between: Make) -> None:
        """Duplicates: the same event, the same usage under a new event id, other content."""
        commands: list[Command] = []
        for n, how in again:
            if not self.sent:
                return
            command = self.sent[-1 - n % len(self.sent)]
            identity = command.identity
            if how == "id":
                identity = replace(
                    self.twin.make.finished().identity,
                    fingerprint=identity.fingerprint,
                    usage_key=identity.usage_key,
                )
                if identity.usage_key is None:
                    continue
            elif how == "content":
                identity = replace(identity, fingerprint=b"other-content-16")
            commands.append(replace(command, identity=identity))
        self.submit([*commands, *self.made(between), *commands])

    @rule(makes=st.lists(histories_acts.acts, min_size=2, max_size=5))
    def administer(self, makes: list[Make]) -> None:
        for make in makes:
            self.submit(self.made(make))

    @rule(makes=histories_acts.runs_within_an_allocation())
    def run_within_an_allocation(self, makes: list[Make]) -> None:
        for make in makes:
            self.submit(self.made(make))

    @rule(steps=histories_acts.months())
    def let_months_pass(self, steps: list[tuple[Make, int]]) -> None:
        for make, gap in steps:
            self.submit(self.made(make))
            self.twin.wait(seconds=gap)

    @rule()
    def refresh_all(self) -> None:
        self.submit([self.twin.make.refresh(s) for s in sorted(self.twin.state.accounts)])

    @rule(passed=histories.seconds)
    def wait(self, passed: int) -> None:
        self.twin.wait(seconds=passed)

    @rule()
    def sweep_all(self) -> None:
        self.submit([*self.twin.due_sweeps()])

    @rule(book=histories.price_books(), since=st.sampled_from([-20 * 86_400, -3600, 0, 0, 3600]))
    def change_prices(self, book: dict[str, Any], since: int) -> None:
        self.twin.apply_prices(book, self.twin.now + timedelta(seconds=since))

    @rule()
    def charge_all_late(self) -> None:
        self.submit([*self.twin.late_charges()])


TestLedger = Ledger.TestCase
TestLedger.pytestmark = [pytest.mark.timeout(300)]  # type: ignore[attr-defined]
TestLedger.settings = settings(
    deadline=None,
    max_examples=250,
    stateful_step_count=45,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
