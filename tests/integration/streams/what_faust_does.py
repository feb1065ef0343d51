"""A Faust application that counts numbers, for the test of what Faust promises: `python -m …`.

It is made as ours are, except that its agent raises at the first `raise` it is sent, and dies at
the first `die`, as a mistake in the code or a killed process would.
"""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from faregate.streams import Options
from faregate.streams.apps import base
from faregate.streams.internal import TABLES


async def main() -> None:
    bootstrap, prefix, topic, home, told = sys.argv[1:]
    TABLES["counting"] = {"naive": None, "guarded": None}
    options = Options(bootstrap, prefix, Path(home), session_timeout_s=6)
    stream = base.Stream("counting", options, 1)
    naive, guarded = stream.table("naive", int), stream.table("guarded", list)
    output = Path(told)

    async def count(records: Any) -> None:
        async for event in records.events():
            said = json.loads(event.message.value)
            if said["do"] == "raise":
                raise RuntimeError("a mistake")
            naive["sum"] += said["n"]
            total, upto = guarded["sum"] or (0, -1)
            if said["number"] > upto:
                guarded["sum"] = [total + said["n"], said["number"]]
            if said["do"] == "die" and not output.with_suffix(".died").exists():
                output.with_suffix(".died").touch()
                await asyncio.sleep(1.5)  # what it changed is in Kafka now, what it read is not
                os._exit(1)
            now = {"naive": naive["sum"], "guarded": guarded["sum"][0], "number": said["number"]}
            output.write_text(json.dumps(now))

    stream.app.agent(stream.source(topic), name="counting")(count)
    await stream.app.start()
    await asyncio.sleep(60)


asyncio.run(main())
