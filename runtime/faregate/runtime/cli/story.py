"""What `explain` found, in plain words: one sentence or two for each thing that happened."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from faregate.runtime.cli.base import counted, moment
from faregate.runtime.cli.story_charge import tell_charge, tell_refunds

Value = Mapping[str, Any]

_RELEASED = {
    "finished": "the pipeline had finished",
    "expired": "the hold's time was over without any progress",
    "restarted": "the same pipeline_id was requested anew",
}


def tell(found: Value) -> list[str]:
    """Give the story of a pipeline, of usage, or of both where they share an id."""
    story: list[str] = []
    if found["pipeline"]:
        story += _pipeline(found["pipeline"])
    for usage in found["usages"]:
        story += _usage(usage)
    return story


def _pipeline(pipeline: Value) -> Iterator[str]:
    decisions = pipeline["decisions"]
    for decision in decisions:
        yield from _decision(pipeline["pipeline_id"], decision)
    if not decisions:
        yield (
            f"Pipeline {pipeline['pipeline_id']} never asked (or its request was erased); "
            "usage and progress that name it are charged and kept all the same."
        )
    for step in pipeline["progress"]:
        yield _progress(step)
    yield from _spent(pipeline["usage"])
    yield from tell_refunds(pipeline["usage"], pipeline["refunds"])
    for release in pipeline["released"]:
        why = _RELEASED.get(release["reason"], release["reason"])
        yield f"{moment(release['at'])}: {_cr(release['credits'])} were released: {why}."
    if pipeline["hold"]:
        yield _hold(pipeline["hold"])


def _decision(pipeline_id: str, d: Value) -> Iterator[str]:
    verdict = "was let in" if d["result"] == "initiated" else "was denied"
    reason = f" ({d['reason']}, as HTTP {d['status']})" if d["result"] == "denied" else ""
    who = d["user"] + (f" of {d['org']}" if d["org"] else "")
    yield (
        f"{moment(d['at'])}: pipeline {pipeline_id} ({d['pipeline']}, {counted(d['items'], 'item')}, for "
        f"{who}) {verdict}{reason}."
    )
    yield from _phases(d)
    yield _payers(d)


def _phases(d: Value) -> Iterator[str]:
    if d["pruned_phases"]:
        pruned = ", ".join(d["pruned_phases"])
        yield f"  Not run again, completed for batch {d['batch_id']} before: {pruned}."
    for phase in d["phases"]:
        yield f"  {phase['how']}"
    if d["phases"] and d.get("reason") not in {"unknown_pipeline", "unknown_price"}:
        version = f" by price version {d['price_version']}" if d["price_version"] else ""
        yield f"  Required{version}: {_cr(d['required_credits'])}."


def _payers(d: Value) -> str:
    if d["result"] == "denied":
        return f"  {d['message']}"
    if not d["reserved_credits"]:
        return "  It costs nothing, so nothing was reserved and there is no hold."
    had = "; ".join(_had(p) for p in d["considered"])
    return (
        f"  {had}. {d['payer']} pays: {_cr(d['reserved_credits'])} were reserved in the same "
        f"transaction, until {moment(d['hold_expires_at'])} (progress extends that)."
    )


def _had(payer: Value) -> str:
    debt = " and was in debt" if payer["in_debt"] else ""
    return f"{payer['payer']} had {_cr(payer['available'])} available{debt}"


def _progress(step: Value) -> str:
    if step["what"] == "finished":
        expected = step.get("usage_events")
        more = f", {counted(expected, 'usage event')} in all" if expected is not None else ""
        return f"{moment(step['at'])}: the pipeline {step['status']}{more}."
    items = f" for {counted(step['items'], 'item')}" if step.get("items") else ""
    return f"{moment(step['at'])}: phase {step['phase']} was completed{items}."


def _spent(usage: Value) -> Iterator[str]:
    if usage["events"]:
        yield (
            f"{counted(usage['events'], 'usage event was', 'usage events were')} charged, {_cr(usage['cost'])}: "
            f"{_cr(usage['from_hold'])} out of the hold, {_cr(usage['from_balance'])} out of the "
            f"balance beyond it, {_cr(usage['debt'])} not covered (debt)."
        )
    if usage["unpriced"]:
        yield (
            f"{counted(usage['unpriced'], 'usage event has', 'usage events have')} no price yet: kept, "
            "and charged once a price is in force (faregate prices apply FILE)."
        )


def _hold(hold: Value) -> str:
    if hold["state"] == "closed":
        return f"The hold of {_cr(hold['amount'])} is closed."
    expected = hold["usage_expected"]
    settled = hold["usage_settled"]
    seen = counted(settled, "usage event")
    if expected is not None:
        seen = f"{settled:,} of {counted(expected, 'usage event')}"
    return (
        f"The hold is {hold['state']}: {_cr(hold['remaining'])} of {_cr(hold['amount'])} remain "
        f"reserved at {hold['payer']} until {moment(hold['expires_at'])}; {seen} settled."
    )


def _usage(u: Value) -> Iterator[str]:
    what = _what(u)
    yield f"{moment(u['decided_at'])}: usage {u['usage_id']} from {u['source']} arrived: {what}."
    if u["pipeline_id"]:
        yield f"  It belongs to pipeline {u['pipeline_id']}."
    if u["result"] != "charged":
        yield (
            "  It has no price yet, so it is kept and nothing was taken. It is charged once a "
            "price is in force for it (faregate prices apply FILE)."
        )
        return
    late = f", at {moment(u['charged_at'])} when it had a price" if u["priced_late"] else ""
    yield f"  It cost {_cr(u['cost'])} by price version {u['price_version']}{late}."
    yield f"  {u['payer']} paid: {', '.join(_sources_of_money(u)) or 'nothing was to pay'}."
    yield from tell_charge(u)
    yield "  Further copies of it change nothing and are not recorded, so they cannot be counted."


def _sources_of_money(u: Value) -> Sequence[str]:
    parts = [
        (u["from_hold"], "out of the hold reserved for the pipeline"),
        (u["from_balance"], "directly out of the balance"),
        (u["debt"], "not covered, so it became debt"),
    ]
    return [f"{_cr(amount)} {how}" for amount, how in parts if amount]


def _what(u: Value) -> str:
    if u["model"]:
        tokens = f"{u['input_tokens'] or 0:,} + {counted(u['output_tokens'] or 0, 'token')}"
        return f"{u['model']}, {tokens}" if u["input_tokens"] is not None else str(u["model"])
    units = f"{counted(u['units'], 'unit')} of " if u["units"] is not None else ""
    return f"{units}{u['phase']}" + (", own key" if u["byok"] else "")


def _cr(amount: float) -> str:
    return counted(amount, "credit")
