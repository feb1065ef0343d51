"""Every event type there is, by its CloudEvents `type`."""

from faregate.events.credits import (
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
    LedgerCheckpointV1,
    UsageUnpricedV1,
)
from faregate.events.data import EventData
from faregate.events.pipeline import (
    PipelineDeniedV1,
    PipelineFinishedV1,
    PipelineInitiatedV1,
    PipelinePhaseCompletedV1,
    PipelineRequestedV1,
)
from faregate.events.signals import (
    AttributionV1,
    BurnRateV1,
    DenialRateV1,
    DenialSpikeV1,
    FraudSuspectedV1,
    ReconcileAlertV1,
    RunwayLowV1,
)
from faregate.events.usage import UsageRecordedV1
from faregate.events.users import UserRegisteredV1

EVENT_TYPES: dict[str, type[EventData]] = {
    model.__name__: model
    for model in (
        PipelineRequestedV1,
        PipelineInitiatedV1,
        PipelineDeniedV1,
        PipelinePhaseCompletedV1,
        PipelineFinishedV1,
        UsageRecordedV1,
        CreditsGrantedV1,
        CreditsHeldV1,
        CreditsReleasedV1,
        CreditsDeductedV1,
        CreditsRefundedV1,
        CreditsExpiredV1,
        CreditsAdjustedV1,
        DebtPaidV1,
        LedgerCheckpointV1,
        CreditsLowV1,
        CreditsExhaustedV1,
        DebtIncurredV1,
        UsageUnpricedV1,
        UserRegisteredV1,
        BurnRateV1,
        RunwayLowV1,
        DenialRateV1,
        DenialSpikeV1,
        AttributionV1,
        FraudSuspectedV1,
        ReconcileAlertV1,
    )
}
