"""Everything that people and programs can do to credits, as plain functions over a store.

Each goes through `Store.apply` and so has one effect in one transaction; administrative acts leave
their row in the audit log in it, refused ones too. Whoever repeats an act with the same `key` gets
the first answer. Command line and gateway have nothing else.
"""

from faregate.ledger.acts_accounts import (
    grant,
    revoke,
    set_alerts,
    set_balance,
    set_quota,
    set_tier,
    unlock,
)
from faregate.ledger.acts_calls import Call, Charge, Coverage, check, coverage, deduct
from faregate.ledger.acts_orgs import allocate, reclaim, set_member, set_policy
from faregate.ledger.acts_refunds import refund
from faregate.ledger.acts_sending import CLI, Done, was_done

__all__ = [
    "CLI",
    "Call",
    "Charge",
    "Coverage",
    "Done",
    "allocate",
    "check",
    "coverage",
    "deduct",
    "grant",
    "reclaim",
    "refund",
    "revoke",
    "set_alerts",
    "set_balance",
    "set_member",
    "set_policy",
    "set_quota",
    "set_tier",
    "unlock",
    "was_done",
]
