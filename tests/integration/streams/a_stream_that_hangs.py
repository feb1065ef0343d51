"""`burn` with an agent that neither ends nor lets itself be cancelled: `… KAFKA PREFIX WATCHDOG_S`."""

import asyncio
import sys
from contextlib import suppress
from typing import Any

from faregate.streams import Options
from faregate.streams.apps import burn
from faregate.streams.worker import run


async def hang(_self: object, _entry: Any) -> None:
    print("hangs", flush=True)
    while True:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)


setattr(burn._Burn, "_take", hang)
options = Options(sys.argv[1], sys.argv[2], session_timeout_s=6, watchdog_s=float(sys.argv[3]))
asyncio.run(run(["burn"], options))
