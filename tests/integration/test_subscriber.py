"""The SDK's subscriber and publisher against the real broker: ends, missing topics, a backlog."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from tests.helpers.servers import Stack

from faregate.events import (
    Event,
    Publisher,
    PublishFailed,
    Subscriber,
    TopicsFailed,
    UserRegisteredV1,
    apply_topics,
    topic_name,
)

pytestmark = pytest.mark.stack

_PROGRAM = """
import asyncio, sys
from faregate.events import Event, Subscriber, UserRegisteredV1

subscriber = Subscriber(sys.argv[1], sys.argv[2], prefix=sys.argv[3])

@subscriber.on(UserRegisteredV1)
async def registered(data: UserRegisteredV1, _: Event) -> None:
    print(data.user_id, flush=True)

async def main() -> None:
    listening = asyncio.create_task(subscriber.run())
    await asyncio.sleep(100)

asyncio.run(main())
"""


@pytest.fixture
async def prefix(stack: Stack) -> str:
    made = f"t{uuid4().hex[:8]}."
    await apply_topics(stack.kafka, prefix=made)
    return made


async def _register(stack: Stack, prefix: str, *users: str) -> None:
    async with Publisher(stack.kafka, "/tests", prefix=prefix) as publisher:
        for user in users:
            await publisher.publish(UserRegisteredV1(user_id=user))


async def _heard(stack: Stack, group: str, prefix: str, count: int) -> list[str]:
    """Read `count` registrations as a member of `group`."""
    users: list[str] = []
    subscriber = Subscriber(stack.kafka, group, prefix=prefix)

    @subscriber.on(UserRegisteredV1)
    async def registered(data: UserRegisteredV1, _: Event) -> None:
        users.append(data.user_id)
        if len(users) == count:
            subscriber.stop()

    async with asyncio.timeout(60):
        await subscriber.run()
    return users


async def test_an_interrupted_program_ends_soon_and_goes_on_where_it_was(
    stack: Stack, prefix: str, tmp_path: Path
) -> None:
    await _register(stack, prefix, "ada")
    program = tmp_path / "program.py"
    program.write_text(_PROGRAM)
    arguments = [sys.executable, str(program), stack.kafka, "readers", prefix]
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        line = await asyncio.to_thread(process.stdout.readline)  # type: ignore[union-attr]
        assert line == "ada\n"
        await asyncio.sleep(1)  # what was handled is committed, and a fetch is under way
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        await asyncio.to_thread(process.wait, 90)
        took_s = time.monotonic() - began
    assert took_s < 20  # the client's own patience is 40 s, and ours 5
    await _register(stack, prefix, "bob")
    assert await _heard(stack, "readers", prefix, 1) == ["bob"]


async def test_a_topic_that_is_missing_is_named_with_what_to_do(stack: Stack) -> None:
    group, prefix = f"g{uuid4().hex[:8]}", f"none{uuid4().hex[:8]}."
    with pytest.raises(TopicsFailed, match="faregate topics apply") as subscribed:
        await _heard(stack, group, prefix, 1)
    with pytest.raises(PublishFailed, match="faregate topics apply") as published:
        await _register(stack, prefix, "ada")
    for said in (subscribed, published):
        assert topic_name(prefix, "users.registered") in str(said.value)
        assert f"FAREGATE_TOPIC_PREFIX='{prefix}'" in str(said.value)


async def test_topics_that_come_a_little_later_are_waited_for(stack: Stack) -> None:
    prefix = f"t{uuid4().hex[:8]}."
    heard = asyncio.create_task(_heard(stack, "readers", prefix, 1))
    sent = asyncio.create_task(_register(stack, prefix, "ada"))
    await asyncio.sleep(1)
    await apply_topics(stack.kafka, prefix=prefix)
    assert await heard == ["ada"]
    await sent


async def test_what_is_no_event_is_refused(stack: Stack, prefix: str) -> None:
    no_event: Any = {"user_id": "ada"}
    async with Publisher(stack.kafka, "/tests", prefix=prefix) as publisher:
        with pytest.raises(TypeError, match="dict is no event type"):
            await publisher.publish(no_event)
