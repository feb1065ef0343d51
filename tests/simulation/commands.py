"""Operations become commands: identities, references to what there is, times from now on."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import cache
from typing import Any

from tests.simulation.database import Database
from tests.simulation.entries import REVOKED

from faregate.ledger.core import (
    AddGrant,
    Allocate,
    ChargeUnpriced,
    CloseHold,
    Command,
    Deduct,
    Finished,
    Grant,
    Identity,
    Part,
    PhaseCompleted,
    Refresh,
    Refund,
    Register,
    Release,
    Request,
    Reserve,
    Revoke,
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

Make = Callable[..., Command | None]


@cache
def key(kind: bytes, number: int) -> bytes:
    return kind[:1] + number.to_bytes(15, "big")


def _own(event: int) -> Identity:
    return Identity(key(b"event", event), key(b"content", event))


def _pipeline(pid: int) -> bytes:
    return key(b"pipeline", pid)


def _batch(batch: int) -> bytes:
    return key(b"batch", batch)


def _later(db: Database, seconds: int | None) -> Any:
    return None if seconds is None else db.now + timedelta(seconds=seconds)


def request(
    db: Database, event: int, pid: int, user: str, org: str | None, batch: int, pipeline: str,
    items: int, phases: tuple[str, ...] | None, left: int | None,
) -> Command:  # fmt: skip
    return Request(
        _own(event), user, org, _pipeline(pid), pipeline, _batch(batch), items, phases,
        _later(db, left),
    )  # fmt: skip


def usage(
    db: Database, event: int, pid: int | None, user: str, org: str | None, age: int, byok: bool,
    phase: str | None, units: int | None, model: str | None, tokens_in: int | None,
    tokens_out: int | None,
) -> Command:  # fmt: skip
    identity = Identity(key(b"event", event), key(b"content", event), key(b"usage", event))
    return Usage(
        identity, user, org, None if pid is None else _pipeline(pid),
        db.now - timedelta(seconds=age), byok, phase, units, None, model, tokens_in, tokens_out,
    )  # fmt: skip


def progress(
    _: Database, event: int, pid: int, user: str, org: str | None, batch: int, phase: str,
    items: int | None,
) -> Command:  # fmt: skip
    return PhaseCompleted(
        _own(event), user, org, _pipeline(pid), _batch(batch), phase, items
    )  # fmt: skip


def finished(
    _: Database, event: int, pid: int, user: str, org: str | None, expected: int | None
) -> Command:
    return Finished(_own(event), user, org, _pipeline(pid), "succeeded", expected)


def register(_: Database, event: int, user: str, verified: bool, sender: str | None) -> Command:
    referral = ("spring", None, sender)[event % 3]
    return Register(_own(event), user, verified, referral, sender)


EVENTS: dict[str, Make] = {
    "request": request,
    "usage": usage,
    "progress": progress,
    "finished": finished,
    "register": register,
}


def renamed(command: Command, event: int) -> Command:
    """The same content under another id."""
    identity = replace(command.identity, event_key=key(b"event", event))
    return replace(command, identity=identity)


def twisted(command: Command, event: int) -> Command:
    """Other content under a name that was used before."""
    other = key(b"other", command.identity.fingerprint[-1] * 1000 + event)
    identity = replace(command.identity, event_key=key(b"event", event), fingerprint=other)
    if isinstance(command, Usage) and command.units is not None:
        return replace(command, identity=identity, units=command.units + 1)
    if isinstance(command, Request):
        return replace(command, identity=identity, items=command.items + 1)
    return replace(command, identity=identity)


# What finance, operations and programs ask for.


def _tokens(
    db: Database, event: int, user: str, org: str | None, model: str | None, tin: int, tout: int
) -> Usage | None:
    if model is None:
        return None
    return Usage(
        _own(event), user, org, None, db.now,
        model=model, input_tokens=tin, output_tokens=tout,
    )  # fmt: skip


def reserve(
    db: Database, event: int, number: int, user: str, org: str | None, amount: int | None,
    model: str | None, tin: int, tout: int, ttl: int | None, counts: bool,
) -> Command:  # fmt: skip
    life = None if ttl is None else timedelta(seconds=ttl)
    estimate = _tokens(db, event, user, org, model, tin, tout)
    return Reserve(
        _own(event), user, org, key(b"k", number), amount, estimate, life, counts
    )  # fmt: skip


def settle(
    db: Database, event: int, number: int, user: str, org: str | None, cost: int | None,
    model: str | None, tin: int, tout: int, final: bool,
) -> Command:  # fmt: skip
    used = _tokens(db, event, user, org, model, tin, tout)
    return Settle(_own(event), user, org, key(b"k", number), cost, used, final)


def release(_: Database, event: int, number: int, user: str, org: str | None) -> Command:
    return Release(_own(event), user, org, key(b"k", number))


def grant(
    db: Database, event: int, subject: str, kind: Any, amount: int, priority: int, life: int | None
) -> Command:
    return AddGrant(
        _own(event), subject, kind, amount, None, priority, _later(db, life)
    )  # fmt: skip


def refund(db: Database, event: int, back: int) -> Command | None:
    """Read the charge from the ledger, as it stands now, without a lock."""
    charges = [c for c in db.charges[-8:] if any(e.amount or e.debt_delta for e in c[2])]
    if not charges:
        return None
    charge, _, entries = charges[-1 - back % len(charges)]
    parts = []
    for e in entries:
        known = []
        for number, _, _ in e.grants:
            terms = next(
                x.terms for x in db.entries if x.subject == e.subject and x.sequence == number
            )
            if terms is not None:
                known.append(Grant(number, 0, 0, terms.priority, terms.expires_at))
        parts.append(Part(e.subject, e.amount, e.debt_delta, e.grants, tuple(known)))
    identity = Identity(key(b"event", event), key(b"refund", charge), key(b"refund", charge))
    return Refund(identity, charge, entries[0].user, entries[0].org, tuple(parts))


OFFICE: dict[str, Make] = {
    "reserve": reserve,
    "settle": settle,
    "release": release,
    "look": lambda _, event, user: Refresh(_own(event), user, welcome=True),
    "grant": grant,
    "set": lambda _, event, subject, target: SetBalance(_own(event), subject, target),
    "revoke": lambda _, event, subject, number: Revoke(_own(event), subject, number, REVOKED),
    "refund": refund,
    "tier": lambda _, event, subject, tier, now: SetTier(_own(event), subject, tier, now),
    "quota": lambda _, event, user, calls: SetQuota(_own(event), user, calls),
    "alerts": lambda _, event, subject, low, part: SetAlerts(_own(event), subject, low, part),
    "policy": lambda _, event, org, policy: SetPolicy(_own(event), org, policy),
    "member": lambda _, event, org, user, role: SetMember(_own(event), org, user, role),
    "allocate": lambda db, event, org, user, amount, life: Allocate(
        _own(event), org, user, amount, _later(db, life)
    ),
    "unlock": lambda _, event, user, milestone: Unlock(_own(event), user, milestone),
    "deduct": lambda _, event, user, org, cost, counts: Deduct(
        _own(event), user, org, cost, counts=counts
    ),
}


def sweeps(db: Database, event: int) -> list[Command]:
    """What the sweeper finds to do: holds and accounts whose time has come, kept usage."""
    found: list[Command] = []
    for pipeline in db.pipelines.values():
        hold = pipeline.hold
        if hold and hold.state != "closed" and hold.expires_at <= db.now:
            own = b"h" + hold.id[1:]
            found.append(CloseHold(Identity(own, own), pipeline.key, hold.id))
    for n, subject in enumerate(s for s, due in db.due.items() if due <= db.now):
        found.append(Refresh(_own(event + n), subject))
    for number, kept in db.unpriced.items():
        own = key(b"late", number)
        late = replace(kept, identity=Identity(own, own))
        found.append(ChargeUnpriced(Identity(own, own), number, late))
    return found
