"""`faregate stack`: Kafka and PostgreSQL without Docker, Java or a system package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from faregate.runtime import stack
from faregate.runtime.cli.base import MISSING, JsonOption, err, examples, new_app, out, show
from faregate.runtime.settings import load, without_password
from faregate.runtime.supervisor import stop_kept

app = new_app(
    "The embedded Kafka and PostgreSQL.",
    "faregate stack up",
    "faregate stack status",
    "faregate stack down",
)


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
    out.print(f"Kafka       {info.kafka or '-'}  {'up' if info.kafka_alive else 'down'}")
    database = without_password(info.database) or "-"
    out.print(f"PostgreSQL  {database}  {'up' if info.postgres_alive else 'down'}", markup=False)
    out.print(
        f"data        {info.home}{'  (temporary: `stack down` deletes it)' if info.ephemeral else ''}"
    )
    for name, path in info.logs.items():
        out.print(f"log         {name}: {path}")


@app.command(epilog=examples("faregate stack up", "faregate stack up --ephemeral --json"))
def up(
    *,
    ephemeral: Annotated[
        bool, typer.Option("--ephemeral", help="Keep the data in a temporary directory.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Start Kafka and PostgreSQL on free ports of 127.0.0.1; downloads them the first time."""
    info = stack.up(
        _home(), ephemeral=ephemeral, progress=lambda line: err.print(line, markup=False)
    )
    show(_value(info), as_json=as_json, render=lambda: _render_up(info))


def _render_up(info: stack.StackInfo) -> None:
    _render(info)
    out.print("\nThe commands of faregate find it by themselves. For your own programs:")
    out.print(f"export FAREGATE_KAFKA={info.kafka}", markup=False)


def _render_down(info: stack.StackInfo | None) -> None:
    if info is not None:  # one of the two has ended: its log says why
        _render(info)
    out.print("not running; start it with: faregate stack up")


EphemeralOption = Annotated[
    bool, typer.Option("--ephemeral", help="Changes nothing: the stack knows what it is.")
]


@app.command(epilog=examples("faregate stack down"))
def down(*, ephemeral: EphemeralOption = False, as_json: JsonOption = False) -> None:  # noqa: ARG001
    """Stop what `stack up` started; an ephemeral stack's data goes with it."""
    kept = stop_kept(_home())  # processes that `demo --keep` has left
    stopped = stack.down(_home()) or bool(kept)
    text = "stopped" if stopped else "nothing was running"
    show({"stopped": stopped}, as_json=as_json, render=lambda: out.print(text))


@app.command(epilog=examples("faregate stack status", "faregate stack status --json"))
def status(*, ephemeral: EphemeralOption = False, as_json: JsonOption = False) -> None:  # noqa: ARG001
    """Show the stack; exit 3 when it is not running."""
    info = stack.status(_home())
    if info is None or not (info.kafka_alive and info.postgres_alive):
        show(
            _value(info) if info else {"kafka": None, "database": None, "gateway": None},
            as_json=as_json,
            render=lambda: _render_down(info),
        )
        raise typer.Exit(MISSING)
    show(_value(info), as_json=as_json, render=lambda: _render(info))
