"""`faregate demo`: the whole story on real Kafka and PostgreSQL."""

from __future__ import annotations

from typing import Annotated

import typer

from faregate.runtime.cli.base import NO, BadUsage, JsonOption, examples, new_app, show
from faregate.runtime.cli.exits import end_on_sigterm
from faregate.runtime.demo.play import Summary
from faregate.runtime.demo.run import Options, run
from faregate.runtime.demo.screen import Screen

app = new_app("The demo.")


@app.command(epilog=examples("faregate demo", "faregate demo --keep"))
def demo(
    *,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave everything running afterwards.")
    ] = False,
    external: Annotated[
        bool, typer.Option("--external", help="The processes run elsewhere, e.g. in containers.")
    ] = False,
    kill_command: Annotated[
        str | None, typer.Option(help="With --external: what SIGKILLs deduction.")
    ] = None,
    restart_command: Annotated[
        str | None, typer.Option(help="With --external: what starts deduction again.")
    ] = None,
    patience: Annotated[
        float, typer.Option(min=1, help="Seconds to wait for each thing that must happen.")
    ] = 60,
    as_json: JsonOption = False,
) -> None:
    """Show the main job: a denial, credits, holds, payments, a killed consumer, the proof.

    Starts a Kafka and a PostgreSQL of its own that are gone afterwards, unless FAREGATE_KAFKA
    and FAREGATE_DATABASE name servers.
    """
    if not external and (kill_command or restart_command):
        raise BadUsage("--kill-command and --restart-command belong to --external")
    if external and keep:
        raise BadUsage("--keep has nothing to keep with --external")
    end_on_sigterm()
    screen = Screen(quiet=as_json)
    summary = run(Options(keep, external, kill_command, restart_command, patience), screen)
    show(summary.as_json(), as_json=as_json, render=lambda: _render(screen, summary))
    if not summary.ok:
        raise typer.Exit(NO)


def _render(screen: Screen, summary: Summary) -> None:
    if not summary.ok:
        heading = next((s.heading for s in summary.steps if not s.ok), "the set-up")
        screen.failed(f"{summary.failed_step}: {heading}", summary.error or "")
        return
    story_s = sum(step.seconds for step in summary.steps)
    screen.print()
    screen.print(f"  [bold green]Everything holds.[/]  The story took {story_s:.0f} s.")
    if summary.kept:
        _render_next(screen, summary)
    screen.print()


def _render_next(screen: Screen, summary: Summary) -> None:
    org = next(iter(summary.balances))
    request = "--set pipeline=cj_assessment --set items=200"
    request += f" --set user_id=bob --set org_id={org.partition(':')[2]}"
    screen.print(f"\n  Kafka, PostgreSQL and the processes are left running ({summary.home}).")
    screen.print("  Try next:")
    for command, what in (
        ("faregate tail denials", "in a second terminal"),
        ("faregate streams", "live signals, in another one"),
        ("faregate top", "balances, burn, runway, denials, each second"),
        (f"faregate trigger PipelineRequestedV1 {request}", "too expensive: denied"),
        (f"faregate credits history {org}", "every entry"),
        ("faregate verify", "the proof once more"),
        ("faregate stack down", "stops all of it"),
    ):
        screen.print(f"    [cyan]{command}[/]  [dim]# {what}[/]")
