"""The typer application itself."""

from __future__ import annotations

import typer

app = typer.Typer(
    name="faregate",
    help="Prepaid credits for event-driven pipelines: every credit accounted for.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
