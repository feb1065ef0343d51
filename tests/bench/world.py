"""The servers of a run, the sizes of its measures, and the lanes that they run in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import asyncpg
from tests.bench.lane import LEDGER_TOPICS, Lane, make_topics, seeded_database
from tests.helpers.servers import fresh_database

from faregate.consumers.loop import LoopSettings

BATCH = LoopSettings().batch_under_lag
"""What the deduction consumer takes at a time when there is a backlog."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much each measure does in one round. Chosen so that all of it ends within 8 minutes."""

    deductions: int = 24_000
    hot: int = 12_000
    rival: int = 1_000
    naive: int = 150
    copy: int = 24_000
    echo: int = 24_000
    paced: int = 3_000
    warm: int = 300
    store: int = 12_000
    pairs: int = 8_000
    streams: int = 2_400
    keys: int = 10_000_000
    http_s: float = 3.0
    paced_s: float = 5.0
    warm_s: float = 1.0
    visits: int = 300
    slow_visits: int = 30


QUICK = Sizes(
    deductions=3_000,
    hot=2_000,
    rival=200,
    naive=20,
    copy=4_000,
    echo=3_000,
    paced=200,
    warm=50,
    store=4_000,
    pairs=500,
    streams=600,
    keys=100_000,
    http_s=0.4,
    paced_s=0.5,
    warm_s=0.2,
    visits=20,
    slow_visits=3,
)

_BIG = """
    ALTER TABLE outcomes DROP CONSTRAINT outcomes_event_key_key,
        DROP CONSTRAINT outcomes_usage_key_key;
    SET maintenance_work_mem = '1GB';
    SET statement_timeout = 0;
    SET transaction_timeout = 0;
"""
_FILL = """
    INSERT INTO outcomes (id, event_key, usage_key, fingerprint, command, result, entries,
                          user_id, at, batch_size, seal)
    SELECT -n, gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 'usage', 'charged', 1,
           1 + n % 2000, clock_timestamp(), 1, gen_random_uuid()
    FROM generate_series($1::bigint, $2::bigint) AS n
"""
_INDEXES = """
    ALTER TABLE outcomes ADD CONSTRAINT outcomes_event_key_key UNIQUE (event_key),
        ADD CONSTRAINT outcomes_usage_key_key UNIQUE (usage_key)
"""
_FILL_STEP = 1_000_000


@dataclass(slots=True)
class World:
    """Servers that only this run uses."""

    kafka: str
    admin: str
    sizes: Sizes
    say: Callable[[str], None]
    _seeds: dict[bool, str] = field(default_factory=dict)
    _lanes: dict[str, Lane] = field(default_factory=dict)

    async def database(self, *, rich: bool = False) -> str:
        """Make a new database: 2,001 accounts, each with a balance and a live hold.

        `rich`: the balance is made of three grants, and the hold is over all of them.
        """
        if rich not in self._seeds:
            self.say("seeding the accounts")
            self._seeds[rich] = await seeded_database(self.admin, rich=rich)
        return await fresh_database(self.admin, template=self._seeds[rich].rpartition("/")[2])

    async def lane(
        self,
        name: str,
        topics: Sequence[str] = LEDGER_TOPICS,
        *,
        big: bool = False,
        rich: bool = False,
    ) -> Lane:
        """Give the lane of a measure; the first call makes it. `big`: with many keys in it."""
        if name not in self._lanes:
            database = await self.database(rich=rich)
            if big:
                await self._fill(database)
            lane = Lane(self.kafka, database, f"{name}.")
            await make_topics(lane, topics)
            self._lanes[name] = lane
        return self._lanes[name]

    async def _fill(self, database: str) -> None:
        """Put many outcomes into a ledger: random keys, and their indexes built afterwards.

        Negative ids keep clear of the ledger's own. A checkpoint at the end makes the first touch
        of every index page as dear as it is in real life.
        """
        connection = await asyncpg.connect(database)
        try:
            await connection.execute(_BIG)
            for start in range(1, self.sizes.keys + 1, _FILL_STEP):
                end = min(start + _FILL_STEP - 1, self.sizes.keys)
                self.say(f"filling in {end:,} of {self.sizes.keys:,} keys")
                await connection.execute(_FILL, start, end)
            self.say(f"building the indexes over {self.sizes.keys:,} keys")
            await connection.execute(_INDEXES)
            await connection.execute("VACUUM (FREEZE, ANALYZE) outcomes")
            await connection.execute("CHECKPOINT")
        finally:
            await connection.close()
