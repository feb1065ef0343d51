"""`faregate migrate`."""

from __future__ import annotations

import asyncio

from faregate.ledger.migrate import migrate as apply
from faregate.runtime import servers
from faregate.runtime.cli.base import JsonOption, examples, new_app, out, show
from faregate.runtime.settings import load

app = new_app("The database.")


@app.command(epilog=examples("faregate migrate"))
def migrate(*, as_json: JsonOption = False) -> None:
    """Bring the database to this version, as the owner that FAREGATE_DATABASE names.

    Safe to run again, and from many machines at once.
    """
    done = asyncio.run(apply(servers.database(load())))
    text = f"applied {', '.join(done)}" if done else "nothing to do: the database is up to date"
    show({"applied": done}, as_json=as_json, render=lambda: out.print(text))
