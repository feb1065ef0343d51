"""`faregate stack`: Kafka and PostgreSQL without Docker, Java or a system package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from faregate.runtime import stack
from faregate.runtime.cli.base import MISSING, JsonOption, err, out, show
from faregate.runtime.settings import load

stack_app = typer.Typer(help="The embedded Kafka and PostgreSQL.", no_args_is_help=True)


def _home() -> Path:
    return load().home or stack.default_home()


def _value(info: stack.StackInfo) -> dict[str, Any]:
    return {
        "kafka": info.kafka or None,
        "database": info.database or None,
        "gateway": info.gateway,
        "home": str(info.home),
        "ephemeral": info.ephemeral,
        "kafka_alive": info.kafka_alive,
        "postgres_alive": info.postgres_alive,
        "logs": {name: str(path) for name, path in info.logs.items()},
    }


def _render(info: stack.StackInfo) -> None:
    out.print(f"Kafka       {info.kafka}  {'up' if info.kafka_alive else 'down'}")
    out.print(f"PostgreSQL  {info.database}  {'up' if info.postgres_alive else 'down'}")
    out.print(f"data        {info.home}{'  (goes with `stack down`)' if info.ephemeral else ''}")
    for name, path in info.logs.items():
        out.print(f"log         {name}: {path}")


@stack_app.command()
def up(
    *,
    ephemeral: Annotated[
        bool, typer.Option(help="Keep the data in a temporary directory.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Start Kafka and PostgreSQL on free ports of 127.0.0.1; downloads them the first time."""
    info = stack.up(
        _home(), ephemeral=ephemeral, progress=lambda line: err.print(line, markup=False)
    )
    show(_value(info), as_json=as_json, render=lambda: _render(info))


@stack_app.command()
def down(*, as_json: JsonOption = False) -> None:
    """Stop what `stack up` started; an ephemeral stack's data goes with it."""
    stopped = stack.down(_home())
    text = "stopped" if stopped else "nothing was running"
    show({"stopped": stopped}, as_json=as_json, render=lambda: out.print(text))


@stack_app.command()
def status(*, as_json: JsonOption = False) -> None:
    """Show the stack; exit 3 when it is not running."""
    info = stack.status(_home())
    if info is None or not (info.kafka_alive and info.postgres_alive):
        show(
            _value(info) if info else {"kafka": None, "database": None, "gateway": None},
            as_json=as_json,
            render=lambda: out.print("not running; start it with: faregate stack up"),
        )
        raise typer.Exit(MISSING)
    show(_value(info), as_json=as_json, render=lambda: _render(info))
