"""Low and exhausted balances: raised once as they are crossed, armed again by what comes in."""

from __future__ import annotations

from dataclasses import replace

from faregate.ledger.core.accounts import Account, Plan
from faregate.ledger.core.model import Kind, Rules

_ARMING = frozenset({"purchase", "bonus", "adjustment", "refund"})


def threshold(rules: Rules, plan: Plan) -> int:
    """Give the amount at which `CreditsLowV1` is raised: the higher of the two; 0: never."""
    absolute = rules.low_micro if plan.low_micro is None else plan.low_micro
    percent = rules.low_percent if plan.low_percent is None else plan.low_percent
    return max(absolute, plan.top * percent // 100)


def after(rules: Rules, old: Account, kind: Kind, available: int) -> tuple[str | None, Plan]:
    """Say what is raised when `old` comes to have `available`, and give its plan after that."""
    plan, had = old.plan, old.balance - old.held
    if kind in _ARMING and old.subject[0] != "m":  # a member's allocation raises nothing
        plan = replace(plan, top=max(available, 0), alerted=())
    if available >= had or old.subject[0] == "m":
        return None, plan
    raised = []
    low = threshold(rules, plan)
    if low > 0 and available <= low < had and "low" not in plan.alerted:
        raised.append(f"low:{low}")
    if available == 0 and "exhausted" not in plan.alerted:
        raised.append("exhausted")
    if not raised:
        return None, plan
    names = tuple(r.partition(":")[0] for r in raised)
    return ",".join(raised), replace(plan, alerted=plan.alerted + names)
