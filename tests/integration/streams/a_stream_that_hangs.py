"""`burn` with an agent that neither ends nor lets itself be cancelled: `… KAFKA PREFIX WATCHDOG_S`.

With `starting` behind that it does not come to the end of its start either.
"""

import asyncio
import sys
from contextlib import suppress
from typing import Any

from faust.tables.manager import TableManager

from faregate.streams import Options
from faregate.streams.apps import burn
from faregate.streams.worker import run


async def hang(_self: object, _entry: Any) -> None:
    print("hangs", flush=True)
    while True:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)


async def hang_at_start(_self: object) -> bool:
    await asyncio.sleep(600)
    return True


setattr(burn._Burn, "_take", hang)
if sys.argv[4:] == ["starting"]:
    setattr(TableManager, "wait_until_recovery_completed", hang_at_start)
options = Options(sys.argv[1], sys.argv[2], session_timeout_s=6, watchdog_s=float(sys.argv[3]))
asyncio.run(run(["burn"], options))
