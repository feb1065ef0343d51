"""The report as one page of HTML: no script, no asset from elsewhere, readable on a phone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape
from typing import Any

from faregate.runtime.flows.records import Balance, Check, FlowResult, Report, StepResult, Timing
from faregate.runtime.flows.text import WORDS, calls_of, credits_of, headline, kept, value_of
from faregate.runtime.flows.timings import SHARE

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_STYLE = """
:root { color-scheme: light dark; --line: #8884; --passed: #1a7f37; --failed: #cf222e;
  --partial: #9a6700; --not_run: #6e7781; }
@media (prefers-color-scheme: dark) { :root { --passed: #3fb950; --failed: #f85149;
  --partial: #d29922; --not_run: #8b949e; } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.4rem; margin: 0; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
p { margin: .3rem 0; overflow-wrap: anywhere; }
details { border-top: 1px solid var(--line); padding: .5rem 0; }
summary { cursor: pointer; }
.mark { font-weight: 600; display: inline-block; min-width: 4.5em; }
.passed { color: var(--passed); } .failed { color: var(--failed); }
.partial { color: var(--partial); } .not_run { color: var(--not_run); }
.scroll { overflow-x: auto; margin: .5rem 0; }
table { border-collapse: collapse; font-size: .9rem; }
th, td { text-align: left; padding: .2rem .8rem .2rem 0; vertical-align: top; }
th { font-weight: 600; border-bottom: 1px solid var(--line); }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.wrong { border-left: 4px solid var(--failed); padding: .1rem .8rem; margin: .5rem 0; }
.quiet { opacity: .75; font-size: .9rem; }
code { font-size: .9em; overflow-wrap: anywhere; }
"""


def as_html(report: Report) -> str:
    """Write the page; everything that came from outside is escaped."""
    return "".join(_page(report))


def _page(report: Report) -> Iterator[str]:
    yield '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
    yield f"<title>Faregate report: {_text(headline(report))}</title>"
    yield f"<style>{_STYLE}</style></head>\n<body>\n<h1>Faregate report</h1>\n"
    yield f'<p class="{report.status}"><strong>{_text(headline(report))}</strong></p>\n'
    ledger = "and in the ledger's database" if report.ledger else "only (no --database)"
    yield f'<p class="quiet"><code>{_text(report.url)}</code>, version {_text(report.version)}, '
    yield f"{report.began:%Y-%m-%d %H:%M:%SZ}; checked on HTTP {_text(ledger)}</p>\n"
    for flow in report.flows:
        yield from _flow(flow)
    yield from _timings(report.timings)
    yield "</body></html>\n"


def _flow(flow: FlowResult) -> Iterator[str]:
    yield f"<h2>{_text(flow.title)} <small>({_text(flow.name)}, {flow.seconds:.1f} s)</small></h2>\n"
    for step in flow.steps:
        yield from _step(step)


def _step(step: StepResult) -> Iterator[str]:
    opened = " open" if step.status == "failed" else ""
    yield f'<details{opened}><summary><span class="mark {step.status}">{WORDS[step.status]}</span> '
    yield f'{_text(step.title)} <span class="quiet">{len(step.checks)} checks, '
    yield f"{len(step.calls)} calls, {step.seconds:.2f} s</span></summary>\n"
    for why in step.why:
        yield f'<p class="{step.status}">{_text(why)}</p>'
    for check in step.failures:
        yield from _failure(check)
    if step.balances:
        yield from _table(
            ("Account", "before", "after", "in the ledger"), map(_balance, step.balances), 1
        )
    if step.calls:
        heads = ("Call", "answers", "median ms", "95 % ms", "longest ms")
        yield from _table(heads, _calls(step), 2)
    good = [check for check in step.checks if check.ok]
    if good:
        shown = ((check.what, value_of(check.came), check.where) for check in good)
        yield from _table(("What holds", "came", "where"), shown, 3)
    yield "</details>\n"


def _calls(step: StepResult) -> Iterator[tuple[str, ...]]:
    for one in calls_of(step):
        answers = ", ".join(f"{count} x {status}" for status, count in one.statuses.items())
        taken = (f"{ms:.1f}" for ms in (one.p50_ms, one.p95_ms, one.max_ms))
        yield (f"{one.method} {one.route}", answers, *taken)


def _failure(check: Check) -> Iterator[str]:
    yield f'<div class="wrong"><p><strong>{_text(check.what)}</strong> ({check.where})</p>'
    yield f"<p>expected <code>{_text(value_of(check.expected))}</code></p>"
    yield f"<p>came <code>{_text(value_of(check.came))}</code></p>"
    if (call := check.call) is not None:
        request = f"{call.method} {call.path} {value_of(call.sent)}"
        yield f"<p>request <code>{_text(request)}</code></p>"
        yield f"<p>answer <code>{call.status or 'none'} {_text(value_of(call.answer))}</code></p>"
        yield f"<p>correlation id <code>{_text(call.correlation_id)}</code></p>"
    yield "</div>\n"


def _balance(balance: Balance) -> tuple[str, ...]:
    amounts = (balance.before, balance.after, balance.ledger)
    return (balance.account, *map(credits_of, amounts))


def _timings(rows: Iterable[Timing]) -> Iterator[str]:
    yield f"<h2>Timings</h2>\n<p>{SHARE:.0%} of the calls are to be within the limit.</p>\n"
    heads = ("What", "limit ms", "within", "median ms", "95 % ms", "longest ms", "kept")
    yield from _table(heads, map(_timing, rows), 1)


def _timing(row: Timing) -> tuple[str, ...]:
    taken = ("-" if ms is None else f"{ms:.1f}" for ms in (row.p50_ms, row.p95_ms, row.max_ms))
    within = f"{row.within} of {row.n}" if row.n else "-"
    return (row.what, f"{row.limit_ms:g}", within, *taken, kept(row))


def _table(
    heads: tuple[str, ...], rows: Iterable[tuple[str, ...]], numbers_from: int
) -> Iterator[str]:
    yield '<div class="scroll"><table><tr>'
    yield from (_cell("th", text, n >= numbers_from) for n, text in enumerate(heads))
    yield "</tr>\n"
    for row in rows:
        yield "<tr>"
        yield from (_cell("td", text, n >= numbers_from) for n, text in enumerate(row))
        yield "</tr>\n"
    yield "</table></div>\n"


def _cell(tag: str, text: str, is_number: bool) -> str:
    kind = ' class="number"' if is_number else ""
    return f"<{tag}{kind}>{_text(text)}</{tag}>"


def _text(value: Any) -> str:
    return escape(str(value))
