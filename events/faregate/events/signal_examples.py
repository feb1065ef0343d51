"""One example of each signal, in the story that `examples` tells."""

from datetime import UTC, datetime, timedelta

from faregate.events.data import EventData
from faregate.events.signals import (
    AccountSums,
    AttributionV1,
    BurnRateV1,
    DenialRateV1,
    DenialSpikeV1,
    FraudSuspectedV1,
    ReconcileAlertV1,
    RunwayLowV1,
    SpendingShare,
)

_AT = datetime(2025, 6, 2, 8, 30, tzinfo=UTC)
_ORG = "org:lakeside-school"
_FIVE_MINUTES = timedelta(minutes=5)

SIGNALS: tuple[EventData, ...] = (
    BurnRateV1(
        account=_ORG, per_minute=45, per_hour=60, per_day=120.5, available=200,
        runway_s=12_000, sequence=31, at=_AT,
    ),
    RunwayLowV1(
        account=_ORG, per_hour=60, available=200, runway_s=12_000, threshold_s=14_400,
        sequence=31, at=_AT,
    ),
    DenialRateV1(
        account=_ORG, window_start=_AT, window_end=_AT + _FIVE_MINUTES, denials=3,
        reasons={"insufficient_credits": 2, "quota_exceeded": 1},
        pipelines={"cj_assessment": 3}, baseline=0.5,
    ),
    DenialSpikeV1(
        account=_ORG, window_start=_AT, window_end=_AT + _FIVE_MINUTES, denials=12,
        reasons={"insufficient_credits": 12}, pipelines={"cj_assessment": 12}, baseline=0.5,
        factor=24,
    ),
    AttributionV1(
        account=_ORG, window="day", window_start=_AT.replace(hour=0, minute=0),
        window_end=_AT.replace(day=3, hour=0, minute=0), closed=False, total=120.5, events=4,
        users=[
            SpendingShare(name="ada", credits=90, events=2),
            SpendingShare(name="ben", credits=30.5, events=2),
        ],
        models=[SpendingShare(name="gpt-4o-mini", credits=0.5, events=1)],
        phases=[SpendingShare(name="cj_assessment", credits=120, events=3)],
        other_users=0, other_models=0, other_phases=0, sequence=31,
    ),
    FraudSuspectedV1(
        case_id="5d7b0f38-5c0f-5b0e-9a53-3f6f3d1f9a20", rule="many_registrations",
        account="domain:throwaway.example", count=21, users=["u-1", "u-2", "u-3"],
        window_start=_AT.replace(minute=0), window_end=_AT.replace(hour=9, minute=0), limit=20,
    ),
    ReconcileAlertV1(
        account=_ORG, problem="wrong_sum", sequence=31,
        expected=AccountSums(balance=75, held=0, debt=0),
        found=AccountSums(balance=80, held=0, debt=0),
        event_id="0197302c-8d41-7000-8000-000000000031", at=_AT,
    ),
)  # fmt: skip
