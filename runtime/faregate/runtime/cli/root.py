"""The typer application: every command by name; its module is imported when it is used."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module, metadata
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_group


@dataclass(frozen=True, slots=True)
class Place:
    """Where a command is: module of this package, its line in the help, its part of the help.

    Each module has a typer application `app`: the whole of it is a `group`, or one command in it.
    """

    module: str
    help: str
    panel: str
    group: bool = False


_SET_UP, _RUN, _MONEY, _WATCH, _TRUST = (
    "Set up",
    "Run",
    "Credits and prices",
    "Watch and try",
    "Check and repair",
)

PLACES: dict[str, Place] = {
    "stack": Place("stack", "Kafka and PostgreSQL on this machine: up, down, status.", _SET_UP, group=True),
    "migrate": Place("migrate", "Bring the database to this version.", _SET_UP),
    "topics": Place("topics", "Create the Kafka topics, say where they differ.", _SET_UP, group=True),
    "settings": Place("settings", "What is in force and where it comes from.", _SET_UP),
    "doctor": Place("doctor", "What is missing or wrong, and the fix.", _SET_UP),
    "serve": Place("running", "Run every process of the product in one.", _RUN),
    "run": Place("running", "Run one or several processes until SIGTERM.", _RUN),
    "streams": Place("streams", "Derive live signals: burn, denials, fraud and more.", _RUN),
    "health": Place("health", "Whether one process is at work (for health checks).", _RUN),
    "users": Place("users", "Who can sign in, the first admin too.", _SET_UP, group=True),
    "credits": Place("credits_statement", "Grant credits, read balances and the ledger.", _MONEY, group=True),
    "orgs": Place("orgs", "Policy, members, allocations and usage of organizations.", _MONEY, group=True),
    "prices": Place("prices_increment", "Apply, show and explain the price book.", _MONEY, group=True),
    "demo": Place("demo", "The whole story on real Kafka and PostgreSQL, in a minute.", _WATCH),
    "trigger": Place("trigger", "Publish an example event, with your fields.", _WATCH),
    "top": Place("top", "Balances, burn, runway, denials, lag, live.", _WATCH),
    "tail": Place("tail", "Follow a topic, the denials or the usage.", _WATCH),
    "explain": Place("explain", "Why a pipeline was let in or denied; what usage cost.", _WATCH),
    "report": Place("report", "Who was provisioned; how flows go on a gateway.", _WATCH),
    "audit": Place("audit", "Who did what, when, and what came of it.", _TRUST),
    "verify": Place("verify", "Prove the ledger; name what was changed.", _TRUST),
    "rebuild": Place("rebuild", "Rebuild all from the entries, say what differs.", _TRUST),
    "export": Place("export", "Write entries to a CSV file.", _TRUST),
    "erase": Place("erase", "Take a person's identifiers out of the ledger.", _TRUST),
    "fraud": Place("fraud", "Suspicions of fraud: list and review them.", _TRUST, group=True),
    "dlq": Place("dlq", "Dead letters: list, show, replay.", _TRUST, group=True),
    "byok": Place("byok", "The master key of users' own keys: rotate it.", _TRUST, group=True),
}  # fmt: skip


def load(name: str) -> Any:
    """Import a command's module and give the click command."""
    place = PLACES[name]
    group = get_group(import_module(f"faregate.runtime.cli.{place.module}").app)
    for command in group.commands.values():
        command.help = _flowing(command.help or "")
    return group if place.group else group.commands[name]


def _flowing(text: str) -> str:
    """Let paragraphs of a docstring flow: only their first would, as the help is written."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


class _Commands(dict[str, Any]):
    """Stubs by name, for the help; taking one by `[name]` gives the real command."""

    def __getitem__(self, name: str) -> Any:
        if name in PLACES:
            return load(name)
        return super().__getitem__(name)


class LazyGroup(TyperGroup):
    """A group whose help needs no module of any command."""

    def __init__(self, *, commands: dict[str, Any] | None = None, **attrs: Any) -> None:
        super().__init__(commands=_Commands(commands or {}), **attrs)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Give the real command instead of its stub."""
        name, stub, rest = super().resolve_command(ctx, args)
        return name, self.commands[name] if name in PLACES else stub, rest


def _stub(place: Place) -> Callable[[], None]:
    def stub() -> None:
        raise NotImplementedError(place.module)

    return stub


app = typer.Typer(
    name="faregate",
    cls=LazyGroup,
    help="Prepaid credits for event-driven pipelines: every credit accounted for.",
    epilog="Every command takes --json: one JSON value on stdout, everything else on stderr (`tail`: one "
    "a record; `serve` and `run`, which end only when told to: none, but JSON logs).\n\n"
    "Exit codes: 0 done, 1 the answer is no or drift was found, 2 usage, 3 a server is missing.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _say_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"faregate {metadata.version('faregate')}\n")
        raise typer.Exit


VersionOption = Annotated[
    bool, typer.Option("--version", help="Say the version.", callback=_say_version, is_eager=True)
]


@app.callback()
def _root(*, version: VersionOption = False) -> None:
    pass


for _name, _place in PLACES.items():
    app.command(_name, help=_place.help, rich_help_panel=_place.panel)(_stub(_place))
