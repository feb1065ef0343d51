"""A second ledger, written from the contract alone: slow, plain, one command at a time.

Amounts are Decimal credits. What the core keeps as a running value is counted anew here from what
it means: a balance is the sum of dated lots, `held` the sum of what open holds have pinned of
them, pairs are really paired.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from tests.unit.core.model_acts import Acts
from tests.unit.core.model_asked import Asked
from tests.unit.core.model_money import Money
from tests.unit.core.model_parts import Answer, Move, Refused
from tests.unit.core.model_people import People
from tests.unit.core.model_runs import Runs
from tests.unit.core.model_usage import Charges

from faregate.ledger.core import (
    AddGrant,
    Allocate,
    ChargeUnpriced,
    CloseHold,
    Command,
    Deduct,
    Finished,
    Identity,
    PhaseCompleted,
    Refresh,
    Refund,
    Register,
    Release,
    Request,
    Reserve,
    Revoke,
    Rules,
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


class Model:
    def __init__(self, rules: Rules) -> None:
        self.money = Money(rules)
        self.people = People(self.money)
        self.runs = Runs(self.money, self.people)
        self.events: dict[bytes, tuple[bytes, Answer]] = {}
        self.usages: dict[bytes, tuple[bytes, Answer]] = {}
        self.charges: list[list[Move]] = []
        """What each accepted command took for usage, to give it back."""
        acts, charges = Acts(self.money, self.people), Charges(self.runs)
        asked = Asked(charges)
        self._do: dict[type, Callable[[Any], Answer | None]] = {
            Request: self.runs.request,
            Usage: charges.usage,
            PhaseCompleted: self.runs.completed,
            Finished: self.runs.finished,
            CloseHold: self.runs.sweep,
            ChargeUnpriced: charges.charge_late,
            Deduct: asked.deduct,
            Reserve: asked.reserve,
            Settle: asked.settle,
            Release: asked.release,
            Register: self.people.register,
            Unlock: self.people.unlock,
            SetMember: self.people.set_member,
            Allocate: self.people.allocate,
            SetBalance: acts.set_balance,
            Revoke: acts.revoke,
            AddGrant: acts.grant,
            Refund: lambda c: acts.refund(c, self.charges[c.charge_id]),
            SetTier: acts.set_tier,
            SetQuota: acts.set_quota,
            SetAlerts: acts.set_alerts,
            SetPolicy: acts.set_policy,
            Refresh: acts.refresh,
        }

    @property
    def moves(self) -> list[Move]:
        return self.money.moves

    def apply(self, command: Command, now: datetime) -> Answer | None:
        """Give what becomes of `command`; `moves` then has the entries it must write."""
        self.money.now, self.money.moves = now, []
        before = self.money.snapshot()
        try:
            earlier = self._earlier(command.identity)
            if earlier is not None:
                return earlier
            answer = self._do[type(command)](command)
        except Refused as refused:
            self.money.restore(before)
            return Answer("rejected", {"code": str(refused)})
        if answer is None:
            assert not self.moves
            return None
        self.charges.append([m for m in self.moves if m.kind == "usage"])
        kept = (command.identity.fingerprint, Answer("duplicate", {"of": answer.result}))
        self.events[command.identity.event_key] = kept
        if command.identity.usage_key is not None:
            self.usages[command.identity.usage_key] = kept
        return answer

    def _earlier(self, identity: Identity) -> Answer | None:
        found = self.events.get(identity.event_key)
        if found is None and identity.usage_key is not None:
            found = self.usages.get(identity.usage_key)
        if found is None and identity.is_repeat:
            raise Refused("never_begun")
        if found is None:
            return None
        if found[0] != identity.fingerprint:
            raise Refused("idempotency_conflict")
        return found[1]
