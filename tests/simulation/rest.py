"""What must be when all has come to rest: nothing is lost, nothing is left over."""

from tests.simulation.checks import Invariants
from tests.simulation.expect_requests import must
from tests.simulation.expect_usage import late_price
from tests.simulation.world import World

from faregate.ledger.core import Command, Refresh
from faregate.ledger.core.rebuild import calls_in_period, differences, rebuild


def check_rest(world: World, invariants: Invariants) -> None:
    check_events(world)
    check_downstream(world)
    check_time(world, invariants)
    check_value(world, invariants)
    check_rebuild(world)


def check_events(world: World) -> None:
    """Each event that was published has one effect, or lies with the dead letters."""
    for log in world.logs.values():
        for command in log:
            must(_is_dealt_with(world, command), f"lost: {command}")
    for command in world.asked.values():
        identity = command.identity
        known = identity.event_key in world.db.seen or identity.usage_key in world.db.seen
        dead = (identity.event_key, identity.fingerprint) in world.dead_letters
        in_vain = isinstance(command, Refresh)  # to look again is always right
        must(known or dead or in_vain, f"never answered: {command}")


def _is_dealt_with(world: World, command: Command) -> bool:
    identity, seen = command.identity, world.db.seen
    found = seen.get(identity.event_key)
    if found is None and identity.usage_key is not None:
        found = seen.get(identity.usage_key)
    if found is not None and found.fingerprint == identity.fingerprint:
        return True
    return (identity.event_key, identity.fingerprint) in world.dead_letters


def check_downstream(world: World) -> None:
    """Who followed the announcements knows what the ledger knows."""
    downstream = world.downstream
    must(not world.db.outbox, "something was never announced")
    for subject, account in world.db.accounts.items():
        known = downstream.balances.get(subject, (0, 0, 0))
        live = (account.balance, account.held, account.debt)
        must(known == live, f"{subject}: announced {known}, is {live}")
        must(downstream.sequences.get(subject, 0) == account.sequence, f"{subject}: sequence")


def check_time(world: World, invariants: Invariants) -> None:
    """The sweeper has left nothing behind: no hold, no grant, no period, no usage with a price."""
    db, shadow = world.db, invariants.shadow
    shadow.now, shadow.prices, shadow.members = db.now, db.prices, db.members
    for pipeline in db.pipelines.values():
        hold = pipeline.hold
        due = hold is not None and hold.state != "closed" and hold.expires_at <= db.now
        must(not due, "a hold was leaked")
    for subject in db.accounts:
        for lot in shadow.account(subject).lots.values():
            over = lot.expires_at is not None and lot.expires_at <= db.now
            must(not over or lot.remaining == lot.held, f"{subject}: {lot} has expired")
        must(shadow.next_period(subject) is None, f"{subject}: a renewal is missing")
    for usage in db.unpriced.values():
        run = shadow.runs.get(usage.pipeline_key or b"")
        if (run is None or not run.is_open(db.now)) and (usage.units or 0) < 10**9:
            must(late_price(shadow, usage, None)[1] is None, f"never charged: {usage}")


def check_value(world: World, invariants: Invariants) -> None:
    """What orgs and users have is what came in, less what went out."""
    db, totals = world.db, dict(invariants.shadow.totals)
    owned = sum(a.balance for s, a in db.accounts.items() if s[0] != "m")
    must(owned == sum(totals.values()), f"{owned} is owned, {totals} was moved")
    held: dict[str, int] = {}
    for pipeline in db.pipelines.values():
        if pipeline.hold:
            for subject in filter(None, (pipeline.hold.payer, pipeline.hold.member)):
                held[subject] = held.get(subject, 0) + pipeline.hold.remaining
    for subject, account in db.accounts.items():
        must(account.held == held.get(subject, 0), f"{subject}: held is not what holds hold")


def check_rebuild(world: World) -> None:
    """The ledger's entries alone make the same accounts, calls included."""
    db = world.db
    rebuilt = rebuild(db.entries)
    for subject, account in db.accounts.items():
        if subject in rebuilt:
            found = differences(rebuilt[subject], account)
            must(not found, f"{subject}: {'; '.join(found)}")
        else:
            must(account.sequence == 0, f"{subject} has no entries")
    if world.went_back:
        return  # then what is later in time need not be later in order
    plans = {s: a.plan for s, a in db.accounts.items() if a.plan.period_start is not None}
    starts = {s: p.period_start for s, p in plans.items() if p.period_start is not None}
    calls = calls_in_period(db.counted, starts)
    must(calls == {s: p.calls for s, p in plans.items()}, f"calls {calls}, live {plans}")
