"""The invariants, looked at as each transaction commits, and once more when all has come to rest."""

from collections.abc import Callable
from typing import Any

from tests.simulation import expect_office, expect_requests, expect_usage
from tests.simulation.database import Loaded
from tests.simulation.expect_requests import must
from tests.simulation.shadow import Run, Shadow
from tests.simulation.world import World

from faregate.ledger.core import (
    Account,
    AddGrant,
    Allocate,
    ChargeUnpriced,
    CloseHold,
    Command,
    Decision,
    Deduct,
    Entry,
    Finished,
    Outcome,
    PhaseCompleted,
    Refresh,
    Refund,
    Register,
    Rejected,
    Release,
    Request,
    Reserve,
    Revoke,
    Seen,
    SetAlerts,
    SetBalance,
    SetMember,
    SetPolicy,
    SetQuota,
    SetTier,
    Settle,
    Unlock,
    Usage,
)

Expect = Callable[[Shadow, Any, Outcome, list[Entry]], None]
EXPECT: dict[type, Expect] = {
    Request: expect_requests.request,
    Usage: expect_usage.usage,
    PhaseCompleted: expect_requests.completed,
    Finished: expect_requests.finished,
    Register: expect_office.register,
    SetBalance: expect_office.set_balance,
    Revoke: expect_office.revoke,
    AddGrant: expect_office.grant,
    Refund: expect_office.refund,
    SetTier: expect_office.set_tier,
    SetQuota: expect_office.set_quota,
    SetAlerts: expect_office.set_alerts,
    SetPolicy: expect_office.set_policy,
    SetMember: expect_office.set_member,
    Allocate: expect_office.allocate,
    Unlock: expect_office.unlock,
    Deduct: expect_requests.deduct,
    Reserve: expect_requests.reserve,
    Settle: expect_usage.settle,
    Release: expect_usage.release,
    CloseHold: expect_office.close_hold,
    Refresh: expect_office.refresh,
    ChargeUnpriced: expect_usage.late,
}
WELCOMES = (Request, Usage, ChargeUnpriced, Deduct, Reserve, Register)
NOTHING: list[Entry] = []


class Invariants:
    def __init__(self, world: World) -> None:
        db = world.db
        self.shadow = Shadow(db.rules, db.prices, {}, db.now)

    def check(self, loaded: Loaded, decision: Decision) -> None:
        """Look at one transaction, command by command."""
        shadow = self.shadow
        shadow.now, shadow.prices, shadow.members = loaded.now, loaded.prices, loaded.state.members
        written: list[list[Entry]] = [[] for _ in decision.outcomes]
        for entry in decision.entries:
            written[entry.outcome].append(entry)
        stale = self.look_back(loaded)
        n = 0
        for command, result in zip(loaded.commands, decision.results, strict=True):
            if self.is_known(command, result):
                continue
            if isinstance(result, Outcome):
                must(result is decision.outcomes[n], "outcomes are in the order of commands")
                self.accepted(command, result, written[n])
                n += 1
            elif isinstance(result, Rejected):
                self.rejected(command, result)
            elif isinstance(command, Refresh) and command.welcome:
                due = shadow.welcome_is_due(command.subject, waits=False)
                must(not due, f"{command.subject} was looked at and not welcomed")
        must(n == len(decision.outcomes), "an outcome of no command")
        self.compare(loaded, decision)
        for key, run in stale.items():
            shadow.runs[key] = run

    def look_back(self, loaded: Loaded) -> dict[bytes, Run]:
        """Take away pipelines that were let in after this transaction had read; give them.

        Only one without a hold, or none at all, can change meanwhile: no account was locked for it.
        """
        newer, runs = {}, self.shadow.runs
        for command in loaded.commands:
            work = command.usage if isinstance(command, ChargeUnpriced) else command
            key = getattr(work, "pipeline_key", None)
            run = runs.get(key) if key else None
            if key and run and run.cause != loaded.causes.get(key):
                newer[key] = run
                old = loaded.state.pipelines.get(key)
                del runs[key]
                if old is not None:
                    must(old.hold is None, "a hold was made anew under the lock")
                    runs[key] = Run(
                        old.cause, old.user, old.org, old.items, [*old.phases], [*old.pruned]
                    )
        return newer

    def is_known(self, command: Command, result: object) -> bool:
        """One effect for an event, for ever; other content under its name is a conflict."""
        identity, effects = command.identity, self.shadow.effects
        known = effects.get(identity.event_key)
        if known is None and identity.usage_key is not None:
            known = effects.get(identity.usage_key)
        if known is None:
            must(not isinstance(result, Seen), "taken for a duplicate of nothing")
            return False
        if known == identity.fingerprint:
            must(isinstance(result, Seen), f"a duplicate had an effect: {result}")
        else:
            is_conflict = isinstance(result, Rejected) and result.code == "idempotency_conflict"
            must(is_conflict, "other content under a known name was let through")
        return True

    def accepted(self, command: Command, outcome: Outcome, entries: list[Entry]) -> None:
        shadow, who = self.shadow, None
        if isinstance(command, WELCOMES):
            who = command.usage.user if isinstance(command, ChargeUnpriced) else command.user
            if isinstance(command, Register):
                shadow.standing(who).verified |= command.email_verified
            if not shadow.welcome_is_due(who):
                who = None
        EXPECT[type(command)](shadow, command, outcome, entries)
        must(who is None or shadow.standing(who).welcome == "given", f"{who} was not welcomed")
        identity = command.identity
        shadow.effects[identity.event_key] = identity.fingerprint
        if identity.usage_key is not None:
            shadow.effects[identity.usage_key] = identity.fingerprint
        for subject in {e.subject for e in entries}:
            account = shadow.accounts[subject]
            must(not account.debt or account.balance == account.held, f"{subject} owes and has")
            if subject[0] == "m":
                gone = shadow.standing(subject).role == "removed"
                must(not gone or not account.available, f"{subject} may spend and is no member")

    def rejected(self, command: Command, result: Rejected) -> None:
        """Work is refused for these reasons only, and only when they are so."""
        shadow, now = self.shadow, self.shadow.now
        work = command.usage if isinstance(command, ChargeUnpriced) else command
        must(result.code != "idempotency_conflict", "a conflict with nothing")
        if isinstance(work, Reserve | Settle | Release):
            self.refused_at_once(work, result)
        if not isinstance(work, Request | Usage | PhaseCompleted | Finished):
            return
        if isinstance(command, Usage):
            oldest, newest = now - shadow.rules.max_age, now + shadow.rules.max_ahead
            if not oldest <= command.occurred_at <= newest:
                must(result.code == "occurred_at_out_of_range", "too old or too new")
                return
        run = shadow.runs.get(work.pipeline_key) if work.pipeline_key else None
        if result.code == "amount_out_of_range":
            must(isinstance(work, Usage) and (work.units or 0) >= 10**9, "too much, they say")
            return
        if isinstance(work, Request):
            mine = run is not None and (run.user, run.org) == (work.user, work.org)
        else:
            mine = run is not None and run.is_of(work.user, work.org)
        must(run is not None and run.is_open(now) and not mine, f"refused by {result.code}")

    def refused_at_once(self, cmd: Reserve | Settle | Release, result: Rejected) -> None:
        run = self.shadow.runs.get(cmd.pipeline_key)
        mine = run is not None and (run.user, run.org) == (cmd.user, cmd.org)
        reasons = {
            "hold_conflict": isinstance(cmd, Reserve) and run is not None,
            "unknown_hold": not isinstance(cmd, Reserve) and not mine,
            "payer_mismatch": run is not None and not mine and run.is_open(self.shadow.now),
            "hold_settled": isinstance(cmd, Settle) and run is not None and run.settled_for_good,
            "unknown_price": isinstance(cmd, Settle) and cmd.usage is not None,
        }
        must(reasons.get(result.code), f"refused by {result.code}")

    def compare(self, loaded: Loaded, decision: Decision) -> None:
        """What is live now equals what the entries make of it."""
        shadow, before = self.shadow, loaded.state.accounts
        for subject, account in decision.state.accounts.items():
            if account is not before[subject]:
                self.compare_account(account)
        for key in {getattr(c, "pipeline_key", None) for c in loaded.commands}:
            pipeline, run = decision.state.pipelines.get(key or b""), shadow.runs.get(key or b"")
            if pipeline is None or run is None:
                must(pipeline is None and run is None, "a pipeline that nobody let in")
                continue
            hold = pipeline.hold
            if hold is None:
                must(run.hold is None, "a hold has gone")
                continue
            live = (hold.id, hold.payer, hold.member, hold.price_version, hold.state)
            must(live == (run.hold, run.payer, run.member, run.version, run.state), f"hold: {live}")
            counts = (hold.expires_at, hold.usage_settled, hold.usage_expected)
            must(counts == (run.until, run.settled, run.expected), f"hold: {counts}")
            payer = shadow.account(hold.payer)
            must(hold.remaining == payer.remaining(hold.id), "a hold's remainder")
            must(hold.pins == payer.pins(hold.id), f"pins: {hold.pins}")
            must(hold.state != "closed" or not hold.remaining, "a closed hold still holds")
            if hold.member:
                member = shadow.account(hold.member)
                must(hold.member_pins == member.pins(hold.id), f"pins: {hold.member_pins}")

    def compare_account(self, live: Account) -> None:
        it, account = self.shadow.standing(live.subject), self.shadow.account(live.subject)
        plan = live.plan
        same = (
            live.balance == account.balance
            and live.held == account.held
            and live.debt == account.debt
            and live.sequence == account.sequence
            and live.granted == account.granted
            and live.grants == account.grants()
        )
        must(same, f"{live.subject} is {live}, its entries make it {account}")
        period = (plan.tier, plan.next_tier, plan.period_start, plan.calls, plan.call_limit)
        must(
            period == (it.tier, it.next_tier, it.start, it.calls, it.limit),
            f"{live.subject}: {period}, expected {it}",
        )
        must((plan.policy, plan.role) == (it.policy, it.role), f"{live.subject}: policy or role")
        must(set(plan.alerted) == it.alerted, f"{live.subject}: {plan.alerted} alerted")
