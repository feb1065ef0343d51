"""`faregate report FLOW…|all`: plays the flows against a gateway and writes what came of them."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import typer
from rich.text import Text

from faregate.runtime.cli.base import NO, BadUsage, Refused, err, out, show, table
from faregate.runtime.cli.exits import end_on_sigterm
from faregate.runtime.flows.place import installation
from faregate.runtime.flows.records import FlowResult, Report, Status, StepResult
from faregate.runtime.flows.run import FLOWS, NoAdmin, run
from faregate.runtime.flows.target import Login, Target
from faregate.runtime.flows.text import WORDS, credits_of, headline, kept, value_of
from faregate.runtime.flows.upstream import Upstream
from faregate.runtime.flows.world import OwnKey
from faregate.runtime.flows.writing import ERRORS, PAGE, as_json, write
from faregate.runtime.wording import meant

ALL = "all"
TOKEN, DATABASE, OWN_KEY = (
    "FAREGATE_REPORT_TOKEN",
    "FAREGATE_REPORT_DATABASE",
    "FAREGATE_REPORT_BYOK_KEY",
)
UPSTREAM_KEY = "FAREGATE_LLM_API_KEY"
_STYLES: dict[Status, str] = {
    "passed": "green",
    "failed": "bold red",
    "partial": "yellow",
    "not_run": "dim",
}


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for on the command line."""

    flows: Sequence[str]
    url: str | None
    folder: Path
    admin_email: str | None
    password_stdin: bool
    database: str | None
    upstream: str | None


def play(options: Options, *, as_json_: bool) -> None:
    """Play the flows, write the files, say how it went."""
    names = flows_named(options.flows)
    _require_sense(options)
    # What the clients log while a server is away; a report says what matters itself.
    for name in ("aiokafka", "asyncpg"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with _target(options) as target:
        try:
            report = asyncio.run(run(target, names, _progress))
        except NoAdmin as error:
            raise Refused(error.code, str(error), error.fix) from error
    files = write(report, options.folder)
    value = as_json(report) | {"files": files}
    show(value, as_json=as_json_, render=lambda: _render(report, files))
    if not report.ok:
        raise typer.Exit(NO)


def flows_named(words: Sequence[str]) -> list[str]:
    """Give the flows that were asked for, in the order they are played. Raises BadUsage."""
    for word in words:
        if word != ALL and word not in FLOWS:
            known = ", ".join((*FLOWS, ALL))
            near = meant(word, (*FLOWS, ALL))
            raise BadUsage(f"there is no flow {word!r}{near}; there are: {known}")
    return [name for name in FLOWS if not words or ALL in words or name in words]


def _require_sense(options: Options) -> None:
    if options.url is None:
        if options.admin_email or options.password_stdin or options.database:
            raise BadUsage("--admin-email and --database belong to --url: say which gateway")
        return
    if urlsplit(options.url).scheme not in {"http", "https"}:
        raise BadUsage(f"--url {options.url!r} is not a URL: write http://127.0.0.1:8080")
    if options.upstream:
        raise BadUsage("--upstream is for a gateway that the report starts: leave --url out")
    if bool(options.admin_email) != options.password_stdin:
        raise BadUsage("--admin-email and --admin-password-stdin go together")


@contextmanager
def _target(options: Options) -> Iterator[Target]:
    """Give the gateway that was named, or start one."""
    if options.url is not None:
        yield _named(options, options.url.rstrip("/"))
        return
    end_on_sigterm()
    outside = None
    if options.upstream:
        outside = Upstream(options.upstream, os.environ.get(UPSTREAM_KEY))
    with installation(
        lambda line: err.print(f"  {line}", style="dim", markup=False), outside
    ) as own:
        yield own


def _named(options: Options, url: str) -> Target:
    login = None
    if options.admin_email:
        login = Login(options.admin_email, sys.stdin.readline().rstrip("\r\n"))
    return Target(
        url,
        login,
        None if login else os.environ.get(TOKEN),
        options.database or os.environ.get(DATABASE) or None,
        None,
        _own_key(),
    )


def _own_key() -> OwnKey | None:
    """Read a key for calls with one's own key. Raises BadUsage, without the key."""
    said = os.environ.get(OWN_KEY)
    if not said:
        return None
    provider, _, key = said.partition(":")
    if not key:
        raise BadUsage(f"{OWN_KEY} has a provider and its key: write openai:KEY")
    return OwnKey(provider, key)


def _progress(flow: FlowResult, step: StepResult) -> None:
    """Show a step when it is done, on stderr: stdout has the report."""
    if flow.steps[0] is step:
        err.print(f"\n{flow.name}: {flow.title}", style="bold", markup=False)
    mark = Text(f"  {WORDS[step.status]:<9}", style=_STYLES[step.status])
    err.print(
        mark.append(f"{step.title}  ", style="default").append(f"{step.seconds:.2f} s", "dim")
    )
    for why in step.why:
        err.print(Text(f"           {why}", style="dim"))
    for check in step.failures:
        wrong = f"           {check.what}: expected {value_of(check.expected)}, came {value_of(check.came)}"
        err.print(Text(wrong, style="red"))


def _render(report: Report, files: dict[str, str]) -> None:
    _render_flows(report)
    if any(row.n for row in report.timings):
        _render_timings(report)
    out.print(f"\n{headline(report)}", style=_STYLES[report.status], markup=False)
    wrong = [] if report.ok else [files[ERRORS]]
    for place in (files[PAGE], *wrong):
        out.print(f"  {place}", markup=False)


def _render_flows(report: Report) -> None:
    amounts = ("before", "after", "ledger")
    shown = table(("flow", "status", "account", *amounts), right=amounts, folds="account")
    for flow in report.flows:
        first = (Text(flow.name), Text(WORDS[flow.status], style=_STYLES[flow.status]))
        for label, found in _balances(flow).items() or (("", ()),):
            shown.add_row(*first, Text(label), *map(credits_of, found))
            first = (Text(""), Text(""))
    out.print(shown)


def _render_timings(report: Report) -> None:
    numbers = ("limit ms", "within", "median ms", "95 % ms")
    shown = table(("timing", *numbers, "kept"), right=numbers)
    for row in report.timings:
        if row.n:
            within, taken = f"{row.within}/{row.n}", (f"{row.p50_ms:.1f}", f"{row.p95_ms:.1f}")
            shown.add_row(row.name, f"{row.limit_ms:g}", within, *taken, kept(row))
    out.print()
    out.print(shown)


def _balances(flow: FlowResult) -> dict[str, tuple[float | None, ...]]:
    """Give each account of a flow: before its first step, after its last one.

    Where steps share nothing each has accounts of its own.
    """
    found: dict[str, tuple[float | None, ...]] = {}
    alone = FLOWS[flow.name].independent
    for step in flow.steps:
        for one in step.balances:
            label = f"{step.name}: {one.account}" if alone else one.account
            before = found[label][0] if label in found else one.before
            found[label] = (before, one.after, one.ledger)
    return found
