"""From rows of the ledger to the contract's events. Pure: rows in, records out.

Event ids are UUIDv5 of what caused the row, so an announcement that is repeated (after a crash, a
failed send, a restored database) has the id it had before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from hashlib import sha1
from typing import Any
from uuid import UUID

from faregate.events import Event, encode, to_credits
from faregate.events.records import dataclass
from faregate.events.topics import TOPIC_OF_TYPE
from faregate.ledger import bodies, names
from faregate.ledger.core.messages import denial_message
from faregate.ledger.keys import Keys, grouped

SOURCE = "faregate"

ENTRY_TYPES = {
    "purchase": "CreditsGrantedV1",
    "bonus": "CreditsGrantedV1",
    "refund": "CreditsRefundedV1",
    "adjustment": "CreditsAdjustedV1",
    "usage": "CreditsDeductedV1",
    "expiry": "CreditsExpiredV1",
    "hold": "CreditsHeldV1",
    "release": "CreditsReleasedV1",
    "debt": "DebtPaidV1",
}

_COPIED = (
    "usage_id",
    "pipeline_id",
    "provider",
    "model",
    "phase",
    "units",
    "input_tokens",
    "output_tokens",
    "byok",
    "price_version",
    "reason",
)

Row = Mapping[str, Any]
Subjects = Mapping[int, str]


@dataclass(frozen=True, slots=True)
class Record:
    """One Kafka record to publish; `topic` without prefix."""

    topic: str
    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]


def bare_id(subject: str | None) -> str | None:
    """Give the id in a subject: `user:42` -> `42`; one that was erased stays `erased:7`."""
    return None if subject is None else names.bare_id(subject)


def _record(
    event_type: str, event_id: str, key: str, at: datetime, data: dict[str, Any], refs: Row
) -> Record:
    event = Event(
        id=event_id,
        source=SOURCE,
        type=event_type,
        data=data,
        time=at,
        subject=key,
        correlationid=refs.get("correlation_id"),
        causationid=refs.get("event_id"),
        traceparent=refs.get("traceparent"),
        tracestate=refs.get("tracestate"),
    )
    value, headers = encode(event)
    return Record(TOPIC_OF_TYPE[event_type], key.encode(), value, headers)


def uuid5(namespace: Any, name: str) -> str:
    """Give `str(uuid.uuid5(namespace, name))` at a third of its price: one is made per event."""
    digest = bytearray(sha1(namespace.bytes + name.encode(), usedforsecurity=False).digest()[:16])
    digest[6] = digest[6] & 0x0F | 0x50
    digest[8] = digest[8] & 0x3F | 0x80
    return grouped(digest)


def entries(rows: Sequence[Row], subjects: Subjects, keys: Keys) -> list[Record]:
    """Announce the ledger entries of one transaction, in order, with the alerts they raised.

    What an org allocated to a member is a limit and no credits: its entries are not announced.
    """
    records: list[Record] = []
    said: Counter[tuple[UUID, str, str]] = Counter()
    for row in rows:
        account = subjects[row["account_id"]]
        if account.startswith("member:"):
            continue
        said[row["cause"], row["kind"], account] += 1
        records += _entry(row, account, subjects, said[row["cause"], row["kind"], account], keys)
    return records


def _entry(row: Row, account: str, subjects: Subjects, nth: int, keys: Keys) -> list[Record]:
    data: dict[str, Any] = {
        "account": account,
        "kind": row["kind"],
        "amount": to_credits(row["amount"]),
        "held_delta": to_credits(row["held_delta"]),
        "debt_delta": to_credits(row["debt_delta"]),
        "balance": to_credits(row["balance"]),
        "held": to_credits(row["held"]),
        "available": to_credits(row["balance"] - row["held"]),
        "debt": to_credits(row["debt"]),
        "sequence": row["sequence"],
        "at": row["at"],
    }
    data.update({name: row[name] for name in _COPIED if row[name] is not None})
    if row["hold_id"] is not None:
        data["hold_id"] = str(row["hold_id"])
    for name in ("user_id", "org_id"):
        if row[name] is not None:
            data[name] = bare_id(subjects[row[name]])
    if row["grants"]:
        data["grants"] = _grants(row["grants"], account, keys)
    name = f"{account}" if nth == 1 else f"{account} {nth}"
    event_id = uuid5(row["cause"], f"{row['kind']} {name}")
    records = [_record(ENTRY_TYPES[row["kind"]], event_id, account, row["at"], data, row)]
    for event_type, what, threshold in _alerts(row):
        alert = {k: data.get(k) for k in ("account", "balance", "available", "debt", "usage_id")}
        alert["model"], alert["phase"] = row["model"], row["phase"]
        if threshold is not None:
            alert["threshold"] = to_credits(threshold)
        alert_id = uuid5(row["cause"], f"{what} {name}")
        records.append(_record(event_type, alert_id, account, row["at"], alert, row))
    return records


def _grants(deltas: Sequence[int], account: str, keys: Keys) -> list[dict[str, Any]]:
    """List which grants an entry took from or gave to; what it only pins moves no credits."""
    return [
        {"grant_id": _grant_id(keys, account, deltas[n]), "amount": to_credits(deltas[n + 1])}
        for n in range(0, len(deltas), 3)
        if deltas[n + 1]
    ]


@lru_cache(50_000)
def _grant_id(keys: Keys, account: str, number: int) -> str:
    """Name a grant; most entries of an account take from the same one."""
    return keys.grant(account, number)


def _alerts(row: Row) -> Iterator[tuple[str, str, int | None]]:
    """List what an entry raised: type of the event, name for its id, threshold (micro)."""
    if row["debt_delta"] > 0:
        yield "DebtIncurredV1", "debt incurred", None
    for alert in filter(None, (row["alert"] or "").split(",")):
        name, _, threshold = alert.partition(":")
        if name == "low":
            yield "CreditsLowV1", "low", int(threshold)
        else:
            yield "CreditsExhaustedV1", "exhausted", None


def outcome(row: Row, body: Mapping[str, Any], subjects: Subjects) -> Record:
    """Announce a decision, or usage that has no price. `body` is the stored outcome's."""
    public = bodies.to_public(body, subjects)
    cause = row["event_key"]
    if row["result"] == "unpriced":
        data = {k: public[k] for k in ("account", "phase", "model")}
        data.update({k: to_credits(public[k]) for k in ("balance", "available", "debt")})
        data["usage_id"] = row["usage_id"]
        event_id = uuid5(cause, "unpriced")
        return _record("UsageUnpricedV1", event_id, public["account"], row["at"], data, row)
    user, org = subjects[row["user_id"]], subjects.get(row["org_id"])
    data = {
        "pipeline_id": row["pipeline_id"],
        "batch_id": row["batch_id"],
        "user_id": bare_id(user),
        "org_id": bare_id(org),
        "phases": public["phases"],
    }
    data.update(_initiated(public) if row["result"] == "initiated" else _denied(public))
    event_type = "PipelineInitiatedV1" if row["result"] == "initiated" else "PipelineDeniedV1"
    return _record(event_type, uuid5(cause, "decision"), org or user, row["at"], data, row)


def _initiated(body: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "pruned_phases": body["pruned"],
        "payer": body["payer"],
        "reserved_credits": to_credits(body["reserved"]),
        "hold_id": body["hold_id"],
        "hold_expires_at": body["hold_expires_at"],
        "price_version": body["price_version"],
    }


def _denied(body: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "reason": body["reason"],
        "status": body["status"],
        "required_credits": to_credits(body["required"]),
        "available_credits": to_credits(body["available"]),
        "considered": [
            {"payer": c["payer"], "available": to_credits(c["available"])}
            for c in body["considered"]
        ],
        "message": denial_message(body),
        "pipeline": body.get("pipeline"),
    }


def checkpoint(state: Row, ledger_id: UUID, epoch: int, at: datetime, subjects: Subjects) -> Record:
    """Announce the state of an account on credits.checkpoints."""
    account = subjects[state["account_id"]]
    data = {
        "account": account,
        "sequence": state["sequence"],
        "balance": to_credits(state["balance"]),
        "held": to_credits(state["held"]),
        "debt": to_credits(state["debt"]),
        "chain_head": state["chain_head"],
        "epoch": epoch,
    }
    event_id = uuid5(ledger_id, f"checkpoint {account} {state['sequence']} {state['chain_head']}")
    return _record("LedgerCheckpointV1", event_id, account, at, data, {})


def accounts_of(rows: list[Row]) -> set[int]:
    """List the account ids that rows of entries or outcomes name."""
    found: set[int] = set()
    for row in rows:
        names = (
            ("account_id", "user_id", "org_id") if "account_id" in row else ("user_id", "org_id")
        )
        found.update(row[name] for name in names if row[name] is not None)
    return found


def forget() -> None:
    """Forget the names in what is remembered: somebody has been erased."""
    _grant_id.cache_clear()
