"""The pure core: what may happen to credits, decided over plain data.

No I/O, no clock, no randomness: `decide(state, commands, now)` always gives the same answer.
All amounts are integer micro-credits (1 credit = 1,000,000).
"""

from faregate.ledger.core.decide import Decision, decide
from faregate.ledger.core.model import (
    Account,
    ChargeUnpriced,
    CloseHold,
    Command,
    Entry,
    Finished,
    Grant,
    Hold,
    Identity,
    LedgerFault,
    Outcome,
    PhaseCompleted,
    Pipeline,
    Rejected,
    Request,
    Rules,
    Seen,
    SetBalance,
    State,
    Usage,
)
from faregate.ledger.core.prices import Book, Books, InvalidBook, PhasePrice, parse_book

__all__ = [
    "Account",
    "Book",
    "Books",
    "ChargeUnpriced",
    "CloseHold",
    "Command",
    "Decision",
    "Entry",
    "Finished",
    "Grant",
    "Hold",
    "Identity",
    "InvalidBook",
    "LedgerFault",
    "Outcome",
    "PhaseCompleted",
    "PhasePrice",
    "Pipeline",
    "Rejected",
    "Request",
    "Rules",
    "Seen",
    "SetBalance",
    "State",
    "Usage",
    "decide",
    "parse_book",
]
