"""The story: ten essays, no credits, a denial, credits, 45 comparisons, a kill, and the proof.

Each step publishes real events, waits for what comes back on the real topics, and raises
Unexpected unless that is exactly what the contract promises.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial

from faregate.events import (
    CreditsAdjustedV1,
    CreditsDeductedV1,
    CreditsHeldV1,
    PipelineDeniedV1,
    PipelineFinishedV1,
    PipelineInitiatedV1,
    PipelinePhaseCompletedV1,
    PipelineRequestedV1,
    UsageRecordedV1,
    dlq_of,
)
from faregate.runtime.demo import closing
from faregate.runtime.demo.client import Unexpected, expect
from faregate.runtime.demo.installation import KILLED
from faregate.runtime.demo.play import GRANTED, ITEMS, PAIRS, Play, Step
from faregate.runtime.wording import counted

COPIES = 3
KILL_AFTER = PAIRS // 2
ODD = 7


async def free_pipeline(play: Play) -> None:
    """Initiate `nlp` on empty accounts, and report its phases as completed."""
    cast = play.cast
    for subject in cast.subjects:
        play.before[subject] = await play.client.account(subject)
        balance = play.before[subject]["balance"]
        expect(f"balance of {subject} at the beginning", balance, 0)
    request = await play.publish(
        PipelineRequestedV1(
            pipeline_id=cast.nlp, pipeline="nlp", batch_id=cast.batch, items=ITEMS, **cast.who()
        ),
        f"nlp for {ITEMS} essays",
    )
    answer = await play.client.decision(request)
    if not isinstance(answer, PipelineInitiatedV1):
        raise Unexpected(f"nlp was to be initiated for nothing, got {answer!r}")
    expect("phases of nlp", answer.phases, ["spellcheck", "nlp"])
    expect("credits reserved for nlp", answer.reserved_credits, 0)
    play.came(answer, f"{' → '.join(answer.phases)}, 0 reserved")
    for phase in answer.phases:
        completed = PipelinePhaseCompletedV1(
            pipeline_id=cast.nlp, batch_id=cast.batch, phase=phase, items=ITEMS, **cast.who()
        )
        await play.publish(completed, f"{phase} is done")
    play.screen.checked("an explicit price of 0 is a price: no credits needed")
    play.facts.update(phases=answer.phases, reserved_credits=answer.reserved_credits)


async def denied(play: Play) -> None:
    """Deny `cj_assessment`: only its own phase is left to pay, and nobody can."""
    request = await play.publish(_assessment(play), f"cj_assessment for {ITEMS} essays")
    answer = await play.client.decision(request)
    if not isinstance(answer, PipelineDeniedV1):
        raise Unexpected(f"cj_assessment was to be denied, got {answer!r}")
    expect("phases after pruning", answer.phases, ["cj_assessment"])
    expect("reason", (answer.status, answer.reason), (402, "insufficient_credits"))
    expect("required credits", answer.required_credits, PAIRS)
    expect("available credits", answer.available_credits, 0)
    play.came(answer, f"{answer.status} {answer.reason}")
    play.screen.note(answer.message)
    play.screen.checked(
        f"{PAIRS} required, 0 available; spellcheck is done already and not paid again"
    )
    play.facts.update(
        phases=answer.phases,
        reason=answer.reason,
        required_credits=answer.required_credits,
        available_credits=answer.available_credits,
    )


async def credits_set(play: Play) -> None:
    """Give both accounts credits, as an operator would."""
    for subject in play.cast.subjects:
        await play.client.set_balance(subject, GRANTED, f"demo-{play.cast.batch}-{subject}")
        play.screen.command(f"faregate credits set {subject} {GRANTED}")
    for subject in play.cast.subjects:
        data = await play.client.heard(
            f"CreditsAdjustedV1 of {subject}", partial(_adjusted, play, subject)
        )
        play.came(data, f"{subject} +{data.amount:,}")
        expect(f"balance of {subject}", data.balance, GRANTED)
        play.before[subject] = await play.client.account(subject)


def _adjusted(play: Play, subject: str) -> CreditsAdjustedV1 | None:
    found = (d for d, _ in play.client.inbox.all(CreditsAdjustedV1) if d.account == subject)
    return next(found, None)


def _held(play: Play, hold_id: str | None) -> CreditsHeldV1 | None:
    found = (d for d, _ in play.client.inbox.all(CreditsHeldV1) if d.hold_id == hold_id)
    return next(found, None)


async def initiated(play: Play) -> None:
    """Initiate the same request, sent as a new event, and hold what it will cost."""
    request = await play.publish(_assessment(play), "the same request once more")
    answer = await play.client.decision(request)
    if not isinstance(answer, PipelineInitiatedV1):
        raise Unexpected(f"cj_assessment was to be initiated, got {answer!r}")
    org = play.cast.subjects[0]
    expect("payer", answer.payer, org)
    expect("phases after pruning", answer.phases, ["cj_assessment"])
    expect("pruned phases", answer.pruned_phases, ["spellcheck"])
    expect("reserved credits", answer.reserved_credits, PAIRS)
    play.came(answer, f"{org} pays, {PAIRS} reserved")
    held = await play.client.heard("CreditsHeldV1", partial(_held, play, answer.hold_id))
    expect("held after the hold", (held.account, held.held), (org, PAIRS))
    play.came(held, f"available {GRANTED:,} → {held.available:,}")
    play.facts.update(payer=answer.payer, reserved_credits=answer.reserved_credits)


def _assessment(play: Play) -> PipelineRequestedV1:
    return PipelineRequestedV1(
        pipeline_id=play.cast.assessment,
        pipeline="cj_assessment",
        batch_id=play.cast.batch,
        items=ITEMS,
        **play.cast.who(),
    )


async def usage(play: Play) -> None:
    """Pay comparison by comparison, with repeats, a forgery and a killed consumer."""
    play.screen.sent(
        "usage.recorded", "UsageRecordedV1", f"{PAIRS} pairs, each sent {COPIES} times"
    )
    events = [_comparison(play, n) for n in range(1, PAIRS + 1)]
    with play.screen.bar("comparisons paid", PAIRS) as bar:
        for count, event in enumerate(events[:KILL_AFTER], start=1):
            await _send(play, [event])
            await _until_paid(play, count)
            bar.show(count)
        await _send(play, events[KILL_AFTER : KILL_AFTER + 1])  # in flight when it dies
        done = await play.installation.kill()
        _tell_of_the_kill(play, done)
        await _send(play, events[KILL_AFTER + 1 :])
        forged = events[ODD - 1].model_copy(update={"units": 1_000})
        await play.publish(forged, None, _event_id(forged))
        if done is not None:
            play.screen.note("the rest is published while nobody reads it")
            play.screen.again(await play.installation.restart())
        for count in range(KILL_AFTER, PAIRS + 1):
            await _until_paid(play, count)
            bar.show(count)
    await _see_dead_letter(play, _event_id(forged))
    _check_payments(play)
    play.screen.checked(
        f"{PAIRS * COPIES} events and one with a stolen id: {PAIRS} charged, 1 set aside"
        + ("" if done is None else "; the kill changed nothing")
    )
    play.facts.update(published=PAIRS * COPIES + 1, charged=PAIRS, killed=done)


def _tell_of_the_kill(play: Play, done: str | None) -> None:
    if done is None:
        play.screen.note(f"no --kill-command: {KILLED} is not killed half-way")
    else:
        play.screen.bang(f"{done}   ({KILLED} dies with {len(_paid(play))} of {PAIRS} paid)")


def _event_id(event: UsageRecordedV1) -> str:
    return f"event-{event.usage_id}"


def _comparison(play: Play, number: int) -> UsageRecordedV1:
    return UsageRecordedV1(
        usage_id=f"{play.cast.assessment}-pair-{number}",
        pipeline_id=play.cast.assessment,
        occurred_at=datetime.now(UTC),
        phase="cj_assessment",
        units=1,
        **play.cast.who(),
    )


async def _send(play: Play, events: Sequence[UsageRecordedV1]) -> None:
    for event in events:
        for _ in range(COPIES):
            await play.publish(event, None, _event_id(event))


def _paid(play: Play) -> list[CreditsDeductedV1]:
    found = (data for data, _ in play.client.inbox.all(CreditsDeductedV1))
    return [data for data in found if data.pipeline_id == play.cast.assessment]


async def _until_paid(play: Play, count: int) -> None:
    def enough() -> bool | None:
        return True if len(_paid(play)) >= count else None

    await play.client.heard(f"payment {count} of {PAIRS} on credits.ledger", enough)


async def _see_dead_letter(play: Play, event_id: str) -> None:
    """Find the forgery. It was sent last, so every copy before it has been decided by now."""
    record = await play.client.dead_letter(event_id)
    error = dict(record.headers).get("faregate-error", b"").decode()
    expect("reason of the dead letter", error, "idempotency_conflict")
    play.screen.came("credits.ledger", "CreditsDeductedV1", f"{PAIRS} payments of 1 credit")
    play.screen.came(dlq_of("usage.recorded"), error, f"pair {ODD} with other content")


def _check_payments(play: Play) -> None:
    paid = _paid(play)
    org = play.cast.subjects[0]
    expect("payments", len(paid), PAIRS)
    expect("comparisons paid", len({data.usage_id for data in paid}), PAIRS)
    wrong = [d for d in paid if (d.account, d.amount, d.held_delta) != (org, -1, -1)]
    expect("payments that are not 1 credit from the hold of the org", wrong, [])


async def finished(play: Play) -> None:
    """Finish the pipeline: its hold closes, since all of its usage has been paid."""
    cast = play.cast
    for pipeline_id, count in ((cast.nlp, 0), (cast.assessment, PAIRS)):
        event = PipelineFinishedV1(
            pipeline_id=pipeline_id, status="succeeded", usage_events=count, **cast.who()
        )
        await play.publish(event, f"{pipeline_id}, {counted(count, 'usage event')}")

    async def closed() -> bool | None:
        return True if await play.client.hold_state(cast.assessment) == "closed" else None

    await play.client.polled("the hold to close", closed)
    account = await play.client.account(cast.subjects[0])
    expect("held by the org", account["held"], 0)
    play.screen.checked("the hold is closed, nothing is held any more")


STEPS: dict[str, tuple[str, Step]] = {
    "free_pipeline": ("A pipeline that costs nothing runs on an empty account", free_pipeline),
    "denied": (f"The next one needs {PAIRS} credits, and nobody has any", denied),
    "credits_set": ("Credits are bought for the org and for the user", credits_set),
    "initiated": ("Now the same request may run, and its price is set aside", initiated),
    "usage": (f"The org pays {PAIRS} comparisons one by one, whatever happens", usage),
    "finished": ("The pipeline is finished", finished),
    "balances": ("What it came to", closing.balances),
    "verify": ("Every credit can be proved", closing.verified),
}
"""The steps by name, with their headings."""
