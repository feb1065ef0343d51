"""Given any history of commands, the core and the model of the contract never differ."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any, Literal

from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from tests.unit.core.twin import DEFAULT_BOOK, MICRO, SUBJECTS, Twin

from faregate.ledger.core import Command, Rules, SetBalance

Make = Callable[[Twin], Command | None]
"""Makes one command for the ledger as it stands; None when there is nothing to make it from."""

PHASES = ("spellcheck", "nlp", "cj_assessment", "score", "report")
FIRST_BOOK: dict[str, Any] = {
    "pipelines": {**DEFAULT_BOOK["pipelines"], "full": list(PHASES)},
    "phases": {
        **DEFAULT_BOOK["phases"],
        "score": {"per": "item", "credits": 0.5},
        "report": {"per": "flat", "credits": 3},
    },
}
RARE_PHASES = ("unheard_of", "new")
pipeline_ids = st.sampled_from(["p1", "p1", "p2", "p3"])
users = st.sampled_from(["ann", "bob", "cat"])
orgs = st.sampled_from([None, None, "acme", "acme", "beta"])
batches = st.sampled_from(["b1", "b2"])
phases = st.sampled_from([*PHASES, *PHASES, *RARE_PHASES])
seldom = st.integers(0, 7).map(lambda n: n == 7)
named_phases = st.lists(phases, min_size=1, max_size=3, unique=True).map(tuple)
items = st.integers(1, 12)
micro = st.sampled_from([1, 300_000, MICRO, 4 * MICRO, 5 * MICRO, 45 * MICRO, 200 * MICRO])
targets = st.sampled_from([0, 1, 5, 45, 46, 100, 100])
seconds = st.sampled_from([-2, 0, 1, 29, 30, 31, 600, 3599, 3600, 3601, 86_400, 40 * 86_400])
ages = st.sampled_from(
    [
        *[timedelta(0), timedelta(minutes=1), timedelta(hours=2), timedelta(days=11)] * 3,
        timedelta(days=35),
        timedelta(days=35, microseconds=1),
        -timedelta(minutes=5),
        -timedelta(minutes=5, microseconds=1),
    ]
)
prices = st.sampled_from(
    [
        {"per": "item", "credits": 0},
        {"per": "item", "credits": 0.1},
        {"per": "pair", "credits": 1},
        {"per": "pair", "credits": 0.000001},
        {"per": "flat", "credits": 3},
        {"per": "item", "credits": 2},
    ]
)


@st.composite
def price_books(draw: st.DrawFn) -> dict[str, Any]:
    chosen = {phase: draw(prices) for phase in PHASES if not draw(seldom)}
    chosen |= {phase: draw(prices) for phase in RARE_PHASES if draw(st.booleans())}
    pipelines = dict(FIRST_BOOK["pipelines"])
    if draw(seldom):
        del pipelines["full"]
    return {"pipelines": pipelines, "phases": chosen}


@st.composite
def requests(draw: st.DrawFn) -> Make:
    fields: dict[str, Any] = {
        "pipeline": draw(st.sampled_from([*["cj_assessment", "full"] * 3, "nlp", "what"])),
        "items": draw(items),
        "user": draw(users),
        "org": draw(orgs),
        "batch": draw(batches),
        "phases": draw(named_phases) if draw(seldom) else None,
    }
    pipeline_id, left = draw(pipeline_ids), draw(st.sampled_from([*[None] * 9, -1, 0, 1]))

    def make(twin: Twin) -> Command:
        until = None if left is None else twin.now + timedelta(seconds=left)
        return twin.make.request(pipeline_id, expires_at=until, **fields)

    return make


def of_a_run(twin: Twin, pipeline_id: str, user: str, org: str | None, fits: int) -> dict[str, Any]:
    """Name the run's own user and org mostly (`fits` > 0), and anybody at times."""
    run = twin.run(pipeline_id)
    if run is not None and fits:
        user = run.user.removeprefix("user:")
        org = run.org.removeprefix("org:") if run.org and fits > 1 else None
    return {"pipeline_id": pipeline_id, "user": user, "org": org}


@st.composite
def usages(draw: st.DrawFn) -> Make:
    fields: dict[str, Any] = {
        "units": 10**9 if draw(seldom) else draw(st.sampled_from([1, 2, 3, 10, 45, 46])),
        "byok": draw(seldom),
        "model": "gpt-4" if draw(seldom) else None,
    }
    usage_id, unrelated = f"u{draw(st.integers(1, 200))}", draw(phases)
    age, whose, fits = draw(ages), (draw(users), draw(orgs)), draw(st.integers(0, 4))
    pipeline_id, nameless, n = draw(pipeline_ids), draw(seldom), draw(st.integers(0, 7))

    def make(twin: Twin) -> Command:
        owner = of_a_run(twin, pipeline_id, *whose, fits)
        run = twin.run(pipeline_id)
        phase = run.phases[n % len(run.phases)] if run and run.phases and fits else unrelated
        if nameless:
            owner["pipeline_id"] = None
        return twin.make.usage(usage_id, twin.now - age, phase=phase, **owner, **fields)

    return make


@st.composite
def completions(draw: st.DrawFn) -> Make:
    pipeline_id, whose, fits = (
        draw(pipeline_ids),
        (draw(users), draw(orgs)),
        draw(st.integers(0, 3)),
    )
    fields: dict[str, Any] = {
        "phase": draw(phases),
        "batch": draw(batches),
        "items": draw(st.none() | items),
    }
    return lambda twin: twin.make.completed(**of_a_run(twin, pipeline_id, *whose, fits), **fields)


@st.composite
def finishes(draw: st.DrawFn) -> Make:
    pipeline_id, whose, fits = (
        draw(pipeline_ids),
        (draw(users), draw(orgs)),
        draw(st.integers(0, 3)),
    )
    expected = draw(st.none() | st.integers(0, 3))
    return lambda twin: twin.make.finished(
        **of_a_run(twin, pipeline_id, *whose, fits), usage_events=expected
    )


@st.composite
def settings_of_balance(draw: st.DrawFn) -> Make:
    subject, target, near = draw(st.sampled_from(SUBJECTS)), draw(targets), draw(st.integers(-1, 9))

    def make(twin: Twin) -> Command:
        command = twin.make.set_balance(subject, target)
        if near > 1:
            return command
        exact = max(0, twin.account(subject).held + near)  # just below, at and above what is held
        return SetBalance(command.identity, subject, exact)

    return make


@st.composite
def grants(draw: st.DrawFn) -> Make:
    subject = draw(st.sampled_from(SUBJECTS))
    kind: Literal["purchase", "bonus"] = draw(st.sampled_from(["purchase", "bonus"]))
    amount = draw(micro | st.just(10**15 - 1))
    return lambda twin: twin.make.grant(subject, amount, kind)


@st.composite
def sweeps(draw: st.DrawFn) -> Make:
    n, due_only, other = draw(st.integers(0, 9)), draw(st.booleans()), draw(st.integers(0, 4)) == 0

    def make(twin: Twin) -> Command | None:
        found = twin.due_sweeps(due_only=due_only)
        if not found:
            return None
        sweep = found[n % len(found)]
        return twin.make.sweep(sweep.pipeline_key, b"of-another-hold!") if other else sweep

    return make


@st.composite
def late_charges(draw: st.DrawFn) -> Make:
    n = draw(st.integers(0, 9))

    def make(twin: Twin) -> Command | None:
        found = twin.late_charges()
        return found[n % len(found)] if found else None

    return make


ordinary = st.one_of(
    requests(),
    requests(),
    usages(),
    usages(),
    usages(),
    completions(),
    finishes(),
    settings_of_balance(),
    grants(),
    sweeps(),
    late_charges(),
)


class Ledger(RuleBasedStateMachine):
    """Two ledgers and a clock. `Twin.submit` compares after every step."""

    def __init__(self) -> None:
        super().__init__()
        self.twin = Twin()
        self.sent: list[Command] = []

    @initialize(auto=st.booleans(), priced=st.integers(0, 9), filled=st.integers(0, 3))
    def begin(self, auto: bool, priced: int, filled: int) -> None:
        self.twin = Twin(Rules(provisioning="auto" if auto else "manual"))
        if priced != 9:
            since = self.twin.now - timedelta(days=20)
            self.twin.apply_prices(FIRST_BOOK, since)
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

    @rule(make=requests())
    def request(self, make: Make) -> None:
        self.submit(self.made(make))

    @rule(make=usages())
    def use(self, make: Make) -> None:
        self.submit(self.made(make))

    @rule(asked=requests(), makes=st.lists(usages() | finishes() | completions(), max_size=4))
    def run(self, asked: Make, makes: list[Make]) -> None:
        self.submit(self.made(asked))
        for make in makes:
            self.submit(self.made(make))

    @rule(make=ordinary)
    def one(self, make: Make) -> None:
        self.submit(self.made(make))

    @rule(makes=st.lists(ordinary, min_size=2, max_size=6))
    def batch(self, makes: list[Make]) -> None:
        self.submit(self.made(*makes))

    @rule(
        again=st.lists(
            st.tuples(st.integers(0, 99), st.sampled_from(["same", "same", "id", "content"])),
            min_size=1,
            max_size=3,
        ),
        between=ordinary,
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

    @rule(passed=seconds)
    def wait(self, passed: int) -> None:
        self.twin.wait(seconds=passed)

    @rule()
    def sweep_all(self) -> None:
        self.submit([*self.twin.due_sweeps()])

    @rule(book=price_books(), since=st.sampled_from([-20 * 86_400, -3600, 0, 0, 3600]))
    def change_prices(self, book: dict[str, Any], since: int) -> None:
        self.twin.apply_prices(book, self.twin.now + timedelta(seconds=since))

    @rule()
    def charge_all_late(self) -> None:
        self.submit([*self.twin.late_charges()])


TestLedger = Ledger.TestCase
TestLedger.settings = settings(
    deadline=None,
    max_examples=400,
    stateful_step_count=45,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
