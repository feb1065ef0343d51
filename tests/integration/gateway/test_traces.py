"""One trace from who calls or publishes, through the ledger's transaction, to what is announced.

On real processes with a real collector; what it is sent names nobody and has no secret.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

import asyncpg
import httpx
import pytest
from tests.helpers.kafka import read_all
from tests.helpers.locks import account_locked
from tests.helpers.otlp import Collector, Seen, collector
from tests.helpers.processes import faregate_processes
from tests.helpers.servers import Stack
from tests.helpers.world import ANNOUNCED, World, world
from tests.integration.gateway.calling import PASSWORD, Person, Town, town
from tests.integration.gateway.llm_world import CHAT, HELLO, MASTER_KEY, UPSTREAM_KEY
from tests.integration.gateway.provider import Provider, provider, whole

from faregate.events.tracing import TraceContext, context_in
from faregate.ledger import acts
from faregate.ledger.store import Store
from faregate.runtime.telemetry import recording

pytestmark = pytest.mark.stack

SERVER, CLIENT, PRODUCER, CONSUMER = 2, 3, 4, 5
CANARY = "sk-or-v1-canary-of-a-trace-0123456789"
DEDUCT = "/api/v1/credits/deduct"
PROCESSES = ("gateway", "entitlements", "deduction", "relay")


def new_context(state: str | None = None, flags: str = "01") -> TraceContext:
    """A trace that somebody outside has begun."""
    return TraceContext(f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-{flags}", state)


def trace_of(context: TraceContext) -> str:
    return context.traceparent.split("-")[1]


def span_of(context: TraceContext) -> str:
    return context.traceparent.split("-")[2]


def only(spans: list[Seen]) -> Seen:
    (span,) = spans
    return span


@asynccontextmanager
async def traced_city(
    stack: Stack, database: str, found: Collector, behind: Provider
) -> AsyncIterator[tuple[World, Person]]:
    """Every process that a fact passes, as in production, and somebody with credits."""
    behind.answer = whole()
    async with world(stack.kafka, database) as here:
        env = here.environment(
            gateway_port="0",
            llm_base_url=behind.url,
            llm_api_key=UPSTREAM_KEY,
            byok_openrouter_base_url=behind.url,
            master_key=MASTER_KEY,
        )
        async with faregate_processes(env | found.environment, *PROCESSES) as procs:
            lines = [json.loads(x) for x in procs.log("gateway").splitlines() if x[:1] == "{"]
            port = next(x["port"] for x in lines if x["event"] == "gateway_started")
            url = f"http://127.0.0.1:{port}"
            async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as http:
                new = {"email": "ada.canary@example.com", "password": PASSWORD}
                made = await Person(http).post("/auth/register", new)
                ada = Person(http, made["access_token"], made["user_id"], new["email"])
                await acts.set_balance(
                    here.store, f"user:{ada.user_id}", 10**9, actor="test", key="rich"
                )
                yield here, ada


async def test_a_trace_leads_from_the_caller_to_the_ledger_and_to_kafka(
    stack: Stack, database_url: str
) -> None:
    called, asked, chatted = new_context("vendor=of-the-caller"), new_context("a=1"), new_context()
    with collector() as found:
        async with (
            provider() as behind,
            traced_city(stack, database_url, found, behind) as (here, ada),
        ):
            paid = await ada.post(DEDUCT, {"credits": 3}, headers=called.headers())
            assert paid.status == 200, paid.json
            request = here.request("p1", ada.user_id)
            usage = here.usage(ada.user_id, pipeline="p1", units=10)
            headers = tuple((n, v.encode()) for n, v in asked.headers().items())
            await here.send(replace(request, headers=(*request.headers, *headers)))
            await here.settled("entitlements")
            await here.send(replace(usage, headers=(*usage.headers, *headers)))
            await here.settled("entitlements", "deduction")
            body = {"model": "gpt-3.5-turbo", "messages": HELLO}
            assert (await ada.post(CHAT, body, headers=chatted.headers())).status == 200
            sent_upstream = behind.call.headers["traceparent"]
            await ada.post(
                "/api/v1/settings/byok-keys", {"provider": "openrouter", "api_key": CANARY}
            )
            own = {"X-BYOK-Provider": "openrouter"}
            anything = {**body, "model": ada.email}
            assert (await ada.post(CHAT, anything, headers=own)).status == 200
            assert (await ada.get(f"/api/v1/org/{ada.email}?token={ada.token}")).status == 403
            assert "traceparent" not in behind.call.headers, "another's provider is a stranger"
            await here.settled("entitlements", "deduction")
            metrics = (await ada.http.get("/metrics")).text
            for context in (called, asked, chatted):
                published = partial(found.of, trace_of(context), "publish")
                await found.wait(published, "span of the relay")
            await found.wait(lambda: len(found.named("chat")) > 1, "call with the user's own key")
            records = await read_all(here.kafka, [here.prefix + t for t in ANNOUNCED])
        exported = b"".join(found.raw)
        private = (
            ada.email,
            ada.user_id,
            str(ada.token),
            PASSWORD,
            CANARY,
            UPSTREAM_KEY,
            MASTER_KEY,
        )
        for secret in (*private, "Say hello", stack.database):
            assert secret.encode() not in exported, secret
        _check_call(found, called)
        _check_pipeline(found, asked, here.prefix)
        _check_chat(found, chatted, sent_upstream)
    for line in (
        'faregate_consumer_lag{consumer="deduction"} 0.0',
        'faregate_consumer_lag{consumer="entitlements"} 0.0',
        'faregate_server_up{server="kafka"} 1.0',
        'faregate_server_up{server="database"} 1.0',
        "faregate_outbox_waiting 0.0",
        "faregate_holds_overdue 0.0",
    ):
        assert line in metrics.splitlines()
    carried: dict[str, dict[str, TraceContext]] = {}
    for record in records:
        if at := context_in(record.headers):
            about = json.loads(record.value)
            carried.setdefault(trace_of(at), {})[about["type"]] = at
            assert about["traceparent"] == at.traceparent
    assert carried[trace_of(called)]["CreditsDeductedV1"].tracestate == "vendor=of-the-caller"
    facts = {"PipelineInitiatedV1", "CreditsHeldV1", "CreditsDeductedV1"}
    assert carried[trace_of(asked)].keys() >= facts
    assert {c.tracestate for c in carried[trace_of(asked)].values()} == {"a=1"}
    assert "CreditsDeductedV1" in carried[trace_of(chatted)]


def _check_call(found: Collector, called: TraceContext) -> None:
    trace = trace_of(called)
    server = only(found.of(trace, f"POST {DEDUCT}"))
    assert (server.parent, server.kind, server.service) == (
        span_of(called),
        SERVER,
        "faregate-gateway",
    )
    assert server.state == "vendor=of-the-caller"
    assert server.attributes == {
        "http.request.method": "POST",
        "http.route": DEDUCT,
        "http.response.status_code": 200,
        "url.scheme": "http",
    }
    transaction = only(found.of(trace, "ledger transaction"))
    assert transaction.parent == server.id
    assert server.began_ns <= transaction.began_ns <= transaction.ended_ns <= server.ended_ns
    assert transaction.attributes["faregate.ledger.commands"] == 1
    assert transaction.attributes["faregate.ledger.accounts"] == 1
    assert transaction.attributes["faregate.ledger.entries"] == 1
    published = only(found.of(trace, "publish"))
    assert (published.parent, published.kind) == (server.id, PRODUCER)
    assert published.service == "faregate-relay"


def _check_pipeline(found: Collector, asked: TraceContext, prefix: str) -> None:
    trace = trace_of(asked)
    for topic, service in (("pipeline.requests", "entitlements"), ("usage.recorded", "deduction")):
        process = only(found.of(trace, f"process {prefix}{topic}"))
        assert (process.parent, process.kind) == (span_of(asked), CONSUMER)
        assert process.service == f"faregate-{service}"
        assert process.attributes["messaging.system"] == "kafka"
        assert process.attributes["messaging.batch.message_count"] == 1
        assert process.id in {s.parent for s in found.of(trace, "ledger transaction")}
    assert len(found.of(trace, "ledger transaction")) == 2
    assert {s.parent for s in found.of(trace, "publish")} == {span_of(asked)}


def _check_chat(found: Collector, chatted: TraceContext, sent_upstream: str) -> None:
    trace = trace_of(chatted)
    server = only(found.of(trace, f"POST {CHAT}"))
    upstream = only(found.of(trace, "chat"))
    assert (upstream.parent, upstream.kind) == (server.id, CLIENT)
    assert upstream.attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "gpt-3.5-turbo",
        "http.response.status_code": 200,
    }
    assert sent_upstream == f"00-{trace}-{upstream.id}-01"
    assert len(found.of(trace, "ledger transaction")) == 2, "the hold, and what it came to"
    with_own_key = [s for s in found.named("chat") if s.trace != trace]
    assert only(with_own_key).attributes["gen_ai.provider.name"] == "openrouter"


async def test_calls_that_share_a_transaction_keep_their_traces(
    store: Store, pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with town(store, linger_s=0.3) as here:
        people, slow = [await here.rich(5), await here.rich(5)], await here.rich(5)
        contexts = [new_context("a=1"), new_context()]

        async def paid_together() -> list[asyncpg.Record]:
            async with account_locked(pool, f"user:{slow.user_id}"):
                under_way = asyncio.create_task(slow.post(DEDUCT, {"credits": 1}))
                await asyncio.sleep(0.1)
                answers = await asyncio.gather(
                    *(
                        person.post(DEDUCT, {"credits": 1}, headers=context.headers())
                        for person, context in zip(people, contexts, strict=True)
                    )
                )
                assert [a.status for a in answers] == [200, 200]
                refs: list[asyncpg.Record] = await pool.fetch(
                    "SELECT traceparent, tracestate FROM refs"
                    " WHERE outcome_id >> 14 = (SELECT max(outcome_id >> 14) FROM refs)"
                )
            assert (await under_way).status == 200
            assert len(refs) == 2, "they were decided together"
            return refs

        refs = await paid_together()
        assert {TraceContext(r["traceparent"], r["tracestate"]) for r in refs} == set(contexts)
        with collector() as found:
            for name, value in found.environment.items():
                monkeypatch.setenv(name, value)
            with recording(["gateway"]):
                refs = await paid_together()
        shared = only([s for s in found.named("ledger transaction") if len(s.links) > 1])
        assert shared.attributes["faregate.ledger.commands"] == 2
        assert shared.trace not in {trace_of(c) for c in contexts}
        for context, carried in zip(contexts, ("a=1", None), strict=True):
            server = only(found.of(trace_of(context), f"POST {DEDUCT}"))
            mirror = only(found.of(trace_of(context), "ledger transaction"))
            assert (mirror.parent, mirror.links) == (
                server.id,
                frozenset({(shared.trace, shared.id)}),
            )
            assert (server.trace, server.id) in shared.links
            written = [r["tracestate"] for r in refs if server.id in r["traceparent"]]
            assert written == [carried], "what follows is a child of the gateway's span"


async def test_a_header_that_is_no_context_is_ignored(here: Town, pool: asyncpg.Pool) -> None:
    ada = await here.rich(5)
    for bad in ("00-a-b-01", "x" * 5000, "00-" + "0" * 32 + "-" + "1" * 16 + "-01"):
        paid = await ada.post(DEDUCT, {"credits": 1}, headers={"traceparent": bad})
        assert paid.status == 200
    assert await pool.fetchval("SELECT count(*) FROM refs WHERE traceparent IS NOT NULL") == 0
