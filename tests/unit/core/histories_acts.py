"""What people and callers do to a ledger, beside the events of pipelines."""

from datetime import datetime, timedelta
from typing import Any, Literal

from hypothesis import strategies as st
from tests.unit.core.histories import (
    TIERS,
    Make,
    completions,
    finishes,
    gaps,
    holds,
    late_charges,
    micro,
    models,
    orgs,
    pipeline_ids,
    requests,
    roles,
    seldom,
    sweeps,
    targets,
    untils,
    usages,
    users,
)
from tests.unit.core.twin import MICRO, SUBJECTS, Twin

from faregate.ledger.core import Command, SetBalance, Usage


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
    amount, left = draw(micro | st.just(10**15 - 1)), draw(untils)
    priority = draw(st.sampled_from([100, 100, 100, 10, 200]))
    return lambda twin: twin.make.grant(
        subject, amount, kind, priority=priority, expires_at=later(twin, left)
    )


@st.composite
def revocations(draw: st.DrawFn) -> Make:
    """Of a grant that an account has, or of one that it has not."""
    subject, n = draw(st.sampled_from(SUBJECTS)), draw(st.integers(0, 3))

    def make(twin: Twin) -> Command:
        numbers = [g.number for g in twin.account(subject).grants]
        return twin.make.revoke(subject, [*numbers, 1, 99][n % (len(numbers) + 2)])

    return make


def later(twin: Twin, seconds: int | None) -> datetime | None:
    return None if seconds is None else twin.now + timedelta(seconds=seconds)


@st.composite
def registrations(draw: st.DrawFn) -> Make:
    user, verified = draw(users), draw(st.booleans())
    sent = {
        "referral": draw(st.sampled_from([None, None, "friends", "radio", "user:bob", "a@b"])),
        "referrer": draw(st.sampled_from([None, "user:ann", "user:bob"])),
    }
    milestone = draw(st.sampled_from(["first_pipeline", "email_verified", "profile", "never"]))
    if draw(st.integers(0, 2)) == 0:
        return lambda twin: twin.make.unlock(milestone, user)
    return lambda twin: twin.make.register(user, verified=verified, **sent)


@st.composite
def plans(draw: st.DrawFn) -> Make:
    subject, tier, now = draw(st.sampled_from(SUBJECTS)), draw(st.sampled_from(TIERS)), draw(seldom)
    calls = draw(st.none() | st.integers(0, 4))
    low = draw(st.none() | micro), draw(st.none() | st.integers(0, 100))
    makers: list[Make] = [
        lambda twin: twin.make.tier(subject, tier, now=now),
        lambda twin: twin.make.tier(subject, tier, now=now),
        lambda twin: twin.make.quota(subject, calls),
        lambda twin: twin.make.alerts(subject, *low),
    ]
    return draw(st.sampled_from(makers))


@st.composite
def memberships(draw: st.DrawFn) -> Make:
    user, org = draw(users), draw(st.sampled_from(["acme", "acme", "beta"]))
    role: Literal["admin", "member", "removed"] = draw(roles)
    policy: Literal["pool", "allocated"] = draw(st.sampled_from(["pool", "allocated", "allocated"]))
    amount, left = draw(micro), draw(untils)
    change = draw(st.sampled_from([amount, amount, amount, -amount, None]))
    makers: list[Make] = [
        lambda twin: twin.make.allocate(user, change, org, later(twin, left)),
        lambda twin: twin.make.allocate(user, change, org, later(twin, left)),
        lambda twin: twin.make.member(user, role, org),
        lambda twin: twin.make.policy(policy, org),
    ]
    return draw(st.sampled_from(makers))


@st.composite
def runs_within_an_allocation(draw: st.DrawFn) -> list[Make]:
    """A member of an `allocated` org asks, works, and may lose their part in the middle of it."""
    user, amount, left = draw(users), draw(st.sampled_from([MICRO, 45 * MICRO])), draw(untils)
    n, units, pipeline_id = draw(st.integers(2, 10)), draw(st.integers(1, 50)), draw(pipeline_ids)
    first: list[Make] = [
        lambda twin: twin.make.grant("org:acme", 50 * MICRO),
        lambda twin: twin.make.policy("allocated"),
        lambda twin: twin.make.allocate(user, amount, "acme", later(twin, left)),
        lambda twin: twin.make.request(pipeline_id, user=user, org="acme", items=n),
    ]
    more: list[Make] = [
        lambda twin: twin.make.usage(
            f"a{units}", twin.now, pipeline_id=pipeline_id, user=user, org="acme", units=units
        ),
        lambda twin: twin.make.finished(pipeline_id, user=user, org="acme", usage_events=n % 3),
        lambda twin: twin.make.member(user, "removed"),
        lambda twin: twin.make.allocate(user, None),
        lambda twin: twin.make.policy("pool"),
        lambda twin: twin.refund() if twin.charges() else None,
        lambda twin: twin.make.refresh("org:acme"),
    ]
    return [*first, *draw(st.lists(st.sampled_from(more), max_size=5))]


@st.composite
def months(draw: st.DrawFn) -> list[tuple[Make, int]]:
    """A tier, and what is done on it with seconds passing between: renewals, quotas, debt."""
    subject, tier = draw(st.sampled_from(SUBJECTS)), draw(st.sampled_from(TIERS))
    other, calls = draw(st.sampled_from(TIERS)), draw(st.none() | st.integers(0, 3))
    user = draw(users) if subject.startswith("org:") else subject[5:]
    doing: Make = draw(st.one_of(requests(), usages(), deductions(), refunds()))
    return [
        (lambda twin: twin.make.tier(subject, tier), 0),
        (lambda twin: twin.make.quota(f"user:{user}", calls), draw(gaps)),
        (lambda twin: twin.make.request("p9", user=user, batch="b9", items=2), 0),
        (lambda twin: twin.make.tier(subject, other), draw(gaps)),
        (doing, draw(gaps)),
        (lambda twin: twin.make.refresh(subject), draw(gaps)),
        (doing, 0),
    ]


@st.composite
def deductions(draw: st.DrawFn) -> Make:
    user, org, counts = draw(users), draw(orgs), draw(st.booleans())
    amount = draw(st.just(0) | micro)
    return lambda twin: twin.make.deduct(amount, user=user, org=org, counts=counts)


@st.composite
def reservations(draw: st.DrawFn) -> Make:
    """Reserve, settle and release, mostly of the same caller."""
    user, org, counts, hold = draw(users), draw(orgs), draw(st.booleans()), draw(holds)
    amount, model, final = draw(st.just(0) | micro), draw(models), draw(st.booleans())
    what, mine = draw(st.sampled_from(["reserve", "settle", "release"])), not draw(seldom)
    tokens = draw(st.tuples(st.integers(0, 3000), st.integers(0, 3000)))
    ttl, byok = draw(st.sampled_from([None, timedelta(seconds=31)])), draw(seldom)

    def used_by(twin: Twin, who: dict[str, Any]) -> Usage | None:
        if model is None:
            return None
        return twin.make.usage("-", twin.now, model=model, tokens=tokens, byok=byok, **who)

    def make(twin: Twin) -> Command:
        run = twin.run(hold)
        who: dict[str, Any] = {"user": user, "org": org}
        if run and mine:
            who = {"user": run.user[5:], "org": run.org and run.org[4:]}
        used = used_by(twin, who)
        cost = None if used else amount
        if what == "release" and run:
            return twin.make.release(hold, **who)
        if what == "settle" and run:
            return twin.make.settle(hold, cost, usage=used, final=final, **who)
        return twin.make.reserve(hold, cost, usage=used, ttl=ttl, counts=counts, **who)

    return make


@st.composite
def refunds(draw: st.DrawFn) -> Make:
    n = draw(st.integers(0, 20))

    def make(twin: Twin) -> Command | None:
        found = twin.charges()
        return twin.refund(found[-1 - n % len(found)]) if found else None

    return make


@st.composite
def refreshes(draw: st.DrawFn) -> Make:
    n, read = draw(st.integers(0, 20)), draw(st.booleans())

    def make(twin: Twin) -> Command:
        subjects = sorted(twin.state.accounts)
        return twin.make.refresh(subjects[n % len(subjects)], welcome=read)

    return make


events = st.one_of(requests(), usages(), usages(), completions(), finishes())
acts = st.one_of(
    settings_of_balance(),
    grants(),
    revocations(),
    plans(),
    memberships(),
    memberships(),
    deductions(),
    reservations(),
    reservations(),
    registrations(),
    refunds(),
    refunds(),
)
ordinary = st.one_of(events, events, acts, acts, sweeps(), late_charges(), refreshes())
