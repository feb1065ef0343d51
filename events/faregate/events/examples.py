"""One complete event of each type, telling one story: ten essays are scored for 45 credits."""

from datetime import UTC, datetime, timedelta
from typing import Any

from faregate.events.credits import (
    AlertData,
    CreditsAdjustedV1,
    CreditsDeductedV1,
    CreditsExhaustedV1,
    CreditsExpiredV1,
    CreditsGrantedV1,
    CreditsHeldV1,
    CreditsLowV1,
    CreditsRefundedV1,
    CreditsReleasedV1,
    DebtIncurredV1,
    DebtPaidV1,
    GrantPart,
    LedgerCheckpointV1,
    LedgerEntryData,
    UsageUnpricedV1,
)
from faregate.events.data import EventData
from faregate.events.envelope import Event
from faregate.events.pipeline import (
    ConsideredPayer,
    PipelineDeniedV1,
    PipelineFinishedV1,
    PipelineInitiatedV1,
    PipelinePhaseCompletedV1,
    PipelineRequestedV1,
)
from faregate.events.signal_examples import SIGNALS
from faregate.events.usage import UsageRecordedV1
from faregate.events.users import UserRegisteredV1

_AT = datetime(2025, 6, 2, 8, 30, tzinfo=UTC)
_APP = "/essays/scoring"
_FAREGATE = "/faregate"
_ORG = "org:lakeside-school"
_RUN: dict[str, Any] = {
    "pipeline_id": "run-2025-0602-7",
    "user_id": "ada",
    "org_id": "lakeside-school",
}
_BATCH: dict[str, Any] = {**_RUN, "batch_id": "essays-class-9b"}
_HOLD = "0197302c-8d40-7c4e-9a51-2f6b7d1e8a90"
_GRANT = "01970c1f-5b2a-7d33-8e07-64a1c9f2b358"
_PHASES = ["spellcheck", "cj_assessment"]

_PIPELINE: tuple[EventData, ...] = (
    PipelineRequestedV1(
        **_BATCH, pipeline="cj_assessment", items=10, expires_at=_AT + timedelta(minutes=5)
    ),
    PipelineInitiatedV1(
        **_BATCH,
        phases=_PHASES,
        pruned_phases=[],
        payer=_ORG,
        reserved_credits=45,
        hold_id=_HOLD,
        hold_expires_at=_AT + timedelta(hours=1),
        price_version=1,
    ),
    PipelineDeniedV1(
        **_BATCH,
        phases=_PHASES,
        reason="insufficient_credits",
        status=402,
        required_credits=45,
        available_credits=12.5,
        considered=[
            ConsideredPayer(payer=_ORG, available=12.5),
            ConsideredPayer(payer="user:ada", available=0),
        ],
        message="45 credits are needed and 12.5 are available; buy at least 32.5 credits.",
        pipeline="cj_assessment",
    ),
    PipelinePhaseCompletedV1(**_BATCH, phase="spellcheck", items=10),
    PipelineFinishedV1(**_RUN, status="succeeded", usage_events=2),
    UsageRecordedV1(
        **_RUN,
        usage_id="run-2025-0602-7/cj_assessment",
        occurred_at=_AT,
        byok=False,
        phase="cj_assessment",
        units=45,
    ),
    UserRegisteredV1(
        user_id="ada", email="ada@lakeside.example", org_id="lakeside-school", email_verified=True
    ),
)


def _part(amount: float) -> list[GrantPart]:
    return [GrantPart(grant_id=_GRANT, amount=amount)]


_LEDGER: tuple[LedgerEntryData, ...] = (
    CreditsGrantedV1(
        account=_ORG, kind="purchase", amount=120, held_delta=0, debt_delta=0,
        balance=120, held=0, available=120, debt=0, sequence=1,
        org_id="lakeside-school", grants=_part(120), reason="invoice 2025-114", at=_AT,
    ),
    CreditsHeldV1(
        account=_ORG, kind="hold", amount=0, held_delta=45, debt_delta=0,
        balance=120, held=45, available=75, debt=0, sequence=2,
        **_RUN, hold_id=_HOLD, price_version=1, at=_AT,
    ),
    CreditsDeductedV1(
        account=_ORG, kind="usage", amount=-45, held_delta=-45, debt_delta=0,
        balance=75, held=0, available=75, debt=0, sequence=3,
        **_RUN, usage_id="run-2025-0602-7/cj_assessment", hold_id=_HOLD,
        phase="cj_assessment", units=45, byok=False, price_version=1, grants=_part(-45), at=_AT,
    ),
    CreditsReleasedV1(
        account=_ORG, kind="release", amount=0, held_delta=-10.5, debt_delta=0,
        balance=75, held=0, available=75, debt=0, sequence=5,
        **_RUN, hold_id=_HOLD, reason="finished", at=_AT,
    ),
    CreditsRefundedV1(
        account=_ORG, kind="refund", amount=4.5, held_delta=0, debt_delta=0,
        balance=79.5, held=0, available=79.5, debt=0, sequence=6,
        org_id="lakeside-school", grants=_part(4.5), reason="one essay was empty", at=_AT,
    ),
    CreditsAdjustedV1(
        account=_ORG, kind="adjustment", amount=20.5, held_delta=0, debt_delta=0,
        balance=100, held=0, available=100, debt=0, sequence=7,
        org_id="lakeside-school", grants=_part(20.5), reason="balance set to 100", at=_AT,
    ),
    CreditsExpiredV1(
        account=_ORG, kind="expiry", amount=-100, held_delta=0, debt_delta=0,
        balance=0, held=0, available=0, debt=0, sequence=8,
        org_id="lakeside-school", grants=_part(-100), at=_AT,
    ),
    DebtPaidV1(
        account=_ORG, kind="debt", amount=-0.3, held_delta=0, debt_delta=-0.3,
        balance=49.7, held=0, available=49.7, debt=0, sequence=11,
        org_id="lakeside-school", grants=_part(-0.3), at=_AT,
    ),
)  # fmt: skip

_ALERTS: tuple[AlertData, ...] = (
    CreditsLowV1(account=_ORG, threshold=20, balance=18.4, available=18.4, debt=0),
    CreditsExhaustedV1(account=_ORG, threshold=0, balance=0, available=0, debt=0),
    DebtIncurredV1(
        account=_ORG, balance=0, available=0, debt=0.3, usage_id="chat-5521", model="gpt-4o-mini"
    ),
    UsageUnpricedV1(
        account=_ORG, balance=75, available=75, debt=0, usage_id="chat-5522", model="gpt-next"
    ),
)

_CHECKPOINT = LedgerCheckpointV1(
    account=_ORG,
    sequence=3,
    balance=75,
    held=0,
    debt=0,
    chain_head="9f2c4e7ab1d05836f4c1a97e3b60d2857ce84f19a2b3d6c05e7f8190a4b2c3d6",
    epoch=0,
)


def examples() -> dict[str, Event]:
    """Give one valid event per type, by type; the same at every call."""
    every = (*_PIPELINE, *_LEDGER, *_ALERTS, _CHECKPOINT, *SIGNALS)
    return {type(data).__name__: _event(number, data) for number, data in enumerate(every, 1)}


def _event(number: int, data: EventData) -> Event:
    from_app = isinstance(
        data,
        PipelineRequestedV1
        | PipelinePhaseCompletedV1
        | PipelineFinishedV1
        | UsageRecordedV1
        | UserRegisteredV1,
    )
    return Event(
        id=f"0197302c-8d41-7000-8000-{number:012d}",
        source=_APP if from_app else _FAREGATE,
        type=type(data).__name__,
        data=data.to_data(),
        time=_AT,
        correlationid=getattr(data, "pipeline_id", None),
    )
