"""Whatever can happen to a ledger, in any order: makers of commands for a twin as it stands."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any, Literal

from hypothesis import strategies as st
from tests.unit.core.twin import DEFAULT_BOOK, MICRO, Twin

from faregate.ledger.core import Command, Rules, Welcome

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
    "models": {
        "gpt-4": {"kind": "credits_per_1k", "credits": 480},
        "mini": {"kind": "vendor", "input_usd_per_1k": 0.00015, "output_usd_per_1k": 0.0006},
        "by-tier": {"kind": "tier_rate"},
    },
    "tiers": {
        "free": {"credits": 0},
        "trial": {"credits": 5, "calls": 4, "rate": 1, "renews": False},
        "starter": {"credits": 20, "calls": 6, "rate": 2},
        "professional": {"credits": 60, "calls": 9, "rate": 5.5},
        "platform": {"credits": 0, "calls": 9},
        "enterprise": {"credits": 999999.99, "rate": 0.01},
    },
}
TIERS = [*FIRST_BOOK["tiers"], "gone"]
RARE_PHASES = ("unheard_of", "new")
pipeline_ids = st.sampled_from(["p1", "p1", "p2", "p3"])
users = st.sampled_from(["ann", "bob", "cat"])
orgs = st.sampled_from([None, None, "acme", "acme", "beta"])
holds = st.sampled_from(["h1", "h2", "h3", "h4", "p1"])
batches = st.sampled_from(["b1", "b2"])
phases = st.sampled_from([*PHASES, *PHASES, *RARE_PHASES])
seldom = st.integers(0, 7).map(lambda n: n == 7)
named_phases = st.lists(phases, min_size=1, max_size=3, unique=True).map(tuple)
items = st.integers(1, 12)
micro = st.sampled_from([1, 300_000, MICRO, 4 * MICRO, 5 * MICRO, 45 * MICRO, 200 * MICRO])
targets = st.sampled_from([0, 1, 5, 45, 46, 100, 100])
seconds = st.sampled_from(
    [
        -2,
        0,
        1,
        29,
        30,
        31,
        600,
        3599,
        3600,
        3601,
        86_400,
        *[n * 86_400 for n in (7, 29, 30, 40, 95)],
    ]
)
ages = st.sampled_from(
    [
        *[timedelta(0), timedelta(minutes=1), timedelta(hours=2), timedelta(days=11)] * 3,
        timedelta(days=35),
        timedelta(days=35, microseconds=1),
        -timedelta(minutes=5),
        -timedelta(minutes=5, microseconds=1),
    ]
)
models = st.sampled_from([*[None] * 5, "gpt-4", "mini", "by-tier", "by-tier", "unheard-of"])
untils = st.sampled_from([*[None] * 5, 0, 1, 60, 3600, 3601, 86_400, 20 * 86_400, 50 * 86_400])
gaps = st.sampled_from([0, 0, 60, 3601, 86_400, 30 * 86_400 - 1, 30 * 86_400, 100 * 86_400])
roles: st.SearchStrategy[Literal["admin", "member", "removed"]] = st.sampled_from(
    ["member", "admin", "removed", "removed"]
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
    rest = {k: v for k, v in FIRST_BOOK.items() if k in {"models", "tiers"} and not draw(seldom)}
    return {"pipelines": pipelines, "phases": chosen, **rest}


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
        "model": draw(models),
        "tokens": draw(st.tuples(st.integers(0, 3000), st.integers(0, 3000))),
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


rules = st.builds(
    Rules,
    provisioning=st.sampled_from(["manual", "auto", "auto"]),
    low_micro=st.sampled_from([0, 0, 1, 10 * MICRO]),
    low_percent=st.sampled_from([0, 0, 20, 100]),
    welcome=st.builds(
        Welcome,
        days=st.sampled_from([None, 7]),
        verified_only=st.booleans(),
        by_referral=st.sampled_from([(), (("friends", 7 * MICRO), ("radio", MICRO))]),
        referral_bonus=st.sampled_from([0, 2 * MICRO]),
        arms=st.sampled_from([(), (("more", 9 * MICRO), ("less", 3 * MICRO), ("none", 0))]),
        milestones=st.sampled_from(
            [(), (), (("first_pipeline", 4 * MICRO),), (("email_verified", MICRO), ("profile", 1))]
        ),
    ),
)
