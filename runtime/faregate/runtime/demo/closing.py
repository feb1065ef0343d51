"""The end of the story: balances, the ledger whose sum is the balance, and its verification."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

from rich.table import Table

from faregate.consumers.checkpoints import read_checkpoints
from faregate.events import (
    TOPIC_OF_TYPE,
    LedgerCheckpointV1,
    dlq_of,
    format_credits,
    parse_signed_credits,
)
from faregate.ledger.verify import Report, verify
from faregate.runtime.demo.client import Client, expect
from faregate.runtime.demo.play import GRANTED, PAIRS, Play
from faregate.runtime.demo.screen import table
from faregate.runtime.wording import counted

Entry = dict[str, Any]


async def balances(play: Play) -> None:
    """Show and check both accounts, the org's ledger, and the traffic."""
    org, user = play.cast.subjects
    after = {subject: await play.client.account(subject) for subject in (org, user)}
    entries = await play.client.history(org)
    ledger_sum = sum(parse_signed_credits(entry["amount"]) for entry in entries)
    topics = _traffic(play)
    accounts, ledger = _accounts(play, after), _ledger(org, entries, ledger_sum)
    play.screen.side_by_side([accounts, ledger], [_topics(topics)])
    wanted = {org: GRANTED - PAIRS, user: GRANTED}
    for subject, account in after.items():
        expect(f"balance of {subject}", account["balance"], wanted[subject])
        expect(f"held and debt of {subject}", (account["held"], account["debt"]), (0, 0))
    expect("sum of the org's ledger", ledger_sum, parse_signed_credits(after[org]["balance"]))
    sequences = [entry["sequence"] for entry in entries]
    expect("sequence of the org's ledger", sequences, list(range(1, len(entries) + 1)))
    play.screen.checked(f"{org} paid {PAIRS}, {user} nothing; the entries add up to the balance")
    play.summary.topics = topics
    play.summary.balances = {
        subject: {"before": play.before[subject]["balance"], "after": account["balance"]}
        | {name: account[name] for name in ("held", "debt")}
        for subject, account in after.items()
    }


async def verified(play: Play) -> None:
    """Recompute everything from the entries and compare it with the published checkpoints."""
    report = await _verify(play.client, play.cast.subjects[0])
    findings = [f"{found.row}: {found.message}" for found in report.findings]
    expect("findings of verify", findings, [])
    play.screen.command("faregate verify")
    play.screen.checked(
        f"OK: {counted(report.entries, 'entry', 'entries')} of {counted(report.accounts, 'account')}, "
        f"{counted(report.checkpoints, 'published checkpoint')}"
    )
    play.facts.update(entries=report.entries, accounts=report.accounts, findings=findings)


async def _verify(client: Client, org: str) -> Report:
    """Verify against checkpoints that reach up to the newest entry.

    The sweeper announces them now and then; to ask for one now saves the wait.
    """
    await client.store.checkpoint()
    newest = (await client.history(org))[-1]["sequence"]

    def heard() -> bool | None:
        said = (data for data, _ in client.inbox.all(LedgerCheckpointV1))
        return any((d.account, d.sequence) == (org, newest) for d in said) or None

    await client.heard(f"a checkpoint of {org} at {newest}", heard)
    said = await read_checkpoints(client.cluster)
    return await verify(client.store.pool, checkpoints=said.checkpoints)


def _traffic(play: Play) -> dict[str, int]:
    """Count the events of this run by topic, both ways."""
    counts: dict[str, int] = {}
    for kind, count in play.published.items():
        counts[TOPIC_OF_TYPE[kind]] = counts.get(TOPIC_OF_TYPE[kind], 0) + count
    counts[dlq_of("usage.recorded")] = 1
    for data, event in play.client.inbox.events.values():
        if _is_of(play, data.to_data()):
            topic = TOPIC_OF_TYPE[event.type]
            counts[topic] = counts.get(topic, 0) + 1
    return dict(sorted(counts.items()))


def _is_of(play: Play, data: dict[str, Any]) -> bool:
    return data.get("account") in play.cast.subjects or data.get("org_id") == play.cast.org


def _accounts(play: Play, after: dict[str, dict[str, Any]]) -> Table:
    rows = [
        (
            subject,
            f"{play.before[subject]['balance']:,}",
            f"[bold]{account['balance']:,}[/]",
            f"{account['held']:,}",
            f"{account['debt']:,}",
        )
        for subject, account in after.items()
    ]
    return table("Balances", ("account", "#before", "#after", "#held", "#debt"), rows)


def _topics(counts: dict[str, int]) -> Table:
    return table("Events", ("topic", "#events"), ((t, str(n)) for t, n in counts.items()))


def _ledger(subject: str, entries: list[Entry], ledger_sum: int) -> Table:
    """List the entries, equal neighbours as one line."""
    made = table(
        f"Ledger of {subject}",
        ("entries", "kind", "#amount", "#held", "#balance after"),
        _lines(entries),
    )
    made.show_footer = True
    for column, text in zip(
        made.columns, ("", "sum", format_credits(ledger_sum), "", ""), strict=True
    ):
        column.footer, column.footer_style = text, "bold"
    return made


def _lines(entries: list[Entry]) -> Iterator[tuple[str, ...]]:
    for (kind, amount, held), group in groupby(
        entries, key=lambda e: (e["kind"], e["amount"], e["held_delta"])
    ):
        run = list(group)
        first, last = run[0]["sequence"], run[-1]["sequence"]
        times = f" x {len(run)}" if len(run) > 1 else ""
        yield (
            _span(first, last),
            kind,
            f"{amount:+,}{times}",
            f"{held:+,}{times}",
            f"{run[-1]['balance']:,}",
        )


def _span(first: int, last: int) -> str:
    return f"{first}" if first == last else f"{first}-{last}"
